//! Whole firmware files, written here byte by byte: how tasks add up, and what is refused.

use tendon_bounds::{EXCEPTION_FRAME, Failure, Report, check, check_file};

/// A function: name, address, code as halfwords, size in the symbol table.
struct Function {
    name: &'static str,
    address: u32,
    code: &'static [u16],
}

/// A firmware: thread 8 bytes, task LOW 40, tasks HIGH and OTHER 8 and 16.
struct Firmware {
    info: &'static str,
    functions: Vec<Function>,
    vectors: Vec<u32>,
    stack: u32,
    more_symbols: Vec<(&'static str, u16)>,
}

impl Firmware {
    fn new() -> Self {
        let function = |name, address, code| Function { name, address, code };
        Self {
            info: "board bench\nversion 1.2.3\ntask LOW 1\ntask HIGH 3\ntask OTHER 3\n",
            functions: vec![
                // push {r4,lr}; 1: b 1b
                function("Reset", 0x100, &[0xb510, 0xe7fe]),
                // b .
                function("DefaultHandler", 0x120, &[0xe7fe]),
                // sub sp,#40; add sp,#40; bx lr
                function("LOW", 0x140, &[0xb08a, 0xb00a, 0x4770]),
                // push {r4,lr}; pop {r4,pc}
                function("HIGH", 0x160, &[0xb510, 0xbd10]),
                // push {r4-r6,lr}; pop {r4-r6,pc}
                function("OTHER", 0x180, &[0xb570, 0xbd70]),
            ],
            vectors: vec![0x2000_1000, 0x101, 0x121, 0x121, 0, 0x141, 0x161, 0x181],
            stack: 1024,
            more_symbols: Vec::new(),
        }
    }

    /// The file: ELF header, section contents, section headers.
    fn elf(&self) -> Vec<u8> {
        const TEXT: u32 = 0x100;
        let mut text: Vec<u8> = Vec::new();
        for function in &self.functions {
            text.resize((function.address - TEXT) as usize, 0);
            text.extend(function.code.iter().flat_map(|half| half.to_le_bytes()));
        }
        let vectors: Vec<u8> = self.vectors.iter().flat_map(|word| word.to_le_bytes()).collect();
        let (mut names, mut symbols) = (vec![0], vec![0; 16]);
        let mut symbol = |name: &str, value: u32, size: u32, info: u8, section: u16| {
            symbols.extend((names.len() as u32).to_le_bytes());
            symbols.extend(value.to_le_bytes());
            symbols.extend(size.to_le_bytes());
            symbols.extend([info, 0]);
            symbols.extend(section.to_le_bytes());
            names.extend(name.bytes().chain([0]));
        };
        for function in &self.functions {
            symbol(function.name, function.address | 1, 2 * function.code.len() as u32, 0x12, 2);
        }
        symbol("_stack_start", 0x2000_1000, 0, 0x10, 0xfff1);
        symbol("_stack_end", 0x2000_1000 - self.stack, 0, 0x10, 0xfff1);
        for (name, section) in &self.more_symbols {
            symbol(name, 0x100, 0, 0x10, *section);
        }
        let section_names = b"\0.vector_table\0.text\0.tendon\0.symtab\0.strtab\0";
        // Name, type, flags, address, link; content.
        let sections: [([u32; 5], &[u8]); 7] = [
            ([0, 0, 0, 0, 0], &[]),
            ([1, 1, 2, 0, 0], &vectors),
            ([15, 1, 6, TEXT, 0], &text),
            ([21, 1, 2, 0x4000, 0], self.info.as_bytes()),
            ([29, 2, 0, 0, 5], &symbols),
            ([37, 3, 0, 0, 0], &names),
            ([37, 3, 0, 0, 0], section_names),
        ];
        let mut file = b"\x7fELF\x01\x01\x01".to_vec();
        file.resize(52, 0);
        let (mut headers, count) = (Vec::new(), sections.len() as u16);
        for ([name, kind, flags, address, link], content) in sections {
            let offset = file.len() as u32;
            for word in [name, kind, flags, address, offset, content.len() as u32, link, 0, 4, 16] {
                headers.extend(word.to_le_bytes());
            }
            file.extend(content);
        }
        let start = (file.len() as u32).to_le_bytes();
        file[18..20].copy_from_slice(&40u16.to_le_bytes());
        file[32..36].copy_from_slice(&start);
        file[46..48].copy_from_slice(&40u16.to_le_bytes());
        file[48..50].copy_from_slice(&count.to_le_bytes());
        file[50..52].copy_from_slice(&(count - 1).to_le_bytes());
        file.extend(headers);
        file
    }

    fn report(&self) -> Report {
        check(&self.elf()).unwrap()
    }

    /// Everything that is said against it.
    fn failures(&self) -> Vec<String> {
        check(&self.elf()).unwrap_err().iter().map(Failure::to_string).collect()
    }
}

#[test]
fn adds_the_deepest_task_of_each_priority_with_its_exception_frame() {
    let report = Firmware::new().report();
    assert_eq!((report.board.as_str(), report.version.as_str()), ("bench", "1.2.3"));
    let row = |name: &str| report.tasks.iter().find(|task| task.name == name).unwrap().stack;
    assert_eq!(["thread", "LOW", "HIGH", "OTHER", "faults"].map(row), [8, 40, 8, 16, 0]);
    // Thread; LOW; the deeper of HIGH and OTHER; HardFault and NMI.
    let expected = 8 + (40 + EXCEPTION_FRAME) + (16 + EXCEPTION_FRAME) + 2 * EXCEPTION_FRAME;
    assert_eq!((report.worst, report.reserved), (expected, 1024));
    assert!(report.fits());
}

#[test]
fn says_when_the_stack_is_too_small() {
    let mut firmware = Firmware::new();
    firmware.stack = 488;
    assert!(!firmware.report().fits());
}

#[test]
fn refuses_a_handler_that_no_task_binds() {
    let mut firmware = Firmware::new();
    firmware.info = "board bench\nversion 1\ntask HIGH 3\ntask OTHER 3\n";
    assert_eq!(firmware.failures().len(), 1);
    assert!(firmware.failures()[0].contains("vector 5 goes to `LOW`"), "{:?}", firmware.failures());
    firmware.info = "board bench\nversion 1\ntask LOW 1\ntask HIGH 3\ntask OTHER 3\ntask GONE 2\n";
    assert!(firmware.failures()[0].contains("vector for the task GONE"), "{:?}", firmware.failures());
    firmware.info = "board bench\nversion 1\ntask LOW high\n";
    assert!(firmware.failures()[0].contains("`task LOW high` is not understood"));
}

#[test]
fn refuses_a_firmware_that_only_tests_may_run() {
    let info = "board bench\nversion 1.2.3\ntask LOW 1\ntask HIGH 3\ntask OTHER 3\nfeature inject\n";
    let failures = Firmware { info, ..Firmware::new() }.failures();
    assert!(failures.iter().any(|failure| failure.contains("feature `inject`")), "{failures:?}");
}

#[test]
fn refuses_panics_heaps_and_undefined_symbols() {
    for (name, section, why) in [
        ("_ZN4core9panicking5panic17h0123456789abcdefE", 2, "a panic is linked"),
        ("_RNvNtCs7ldSeZOOJos_4core9panicking5panic", 2, "a panic is linked"),
        ("rust_begin_unwind", 2, "a panic is linked"),
        ("__rust_alloc", 2, "a heap is linked"),
        ("_ZN5alloc7raw_vec12handle_error17h0123456789abcdefE", 2, "a heap is linked"),
        ("_RNvNtCs7ldSeZOOJos_5alloc7raw_vec12handle_error", 2, "a heap is linked"),
        ("malloc", 2, "a heap is linked"),
        ("_sbrk", 2, "a heap is linked"),
        ("somewhere_else", 0, "it is undefined"),
    ] {
        let mut firmware = Firmware::new();
        firmware.more_symbols.push((name, section));
        assert_eq!(firmware.failures(), [format!("symbol `{name}`: {why}")]);
    }
    let mut firmware = Firmware::new();
    firmware.more_symbols.extend([("allocate_slot", 2), ("mallocate", 2), ("__aeabi_memcpy", 2)]);
    assert!(check(&firmware.elf()).is_ok());
}

#[test]
fn says_where_an_indirect_call_is() {
    let mut firmware = Firmware::new();
    // blx r3; bx lr
    firmware.functions[2].code = &[0x4798, 0x4770];
    let failures = firmware.failures();
    assert_eq!(failures.len(), 1);
    assert!(failures[0].starts_with("0x140 in `LOW`: call or jump through r3"), "{failures:?}");
}

#[test]
fn damaged_files_are_errors_and_no_panic() {
    let good = Firmware::new().elf();
    for length in 0..good.len() {
        assert!(check(&good[..length]).is_err(), "cut at {length}");
    }
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, good[at] ^ 1] {
            let mut bad = good.clone();
            bad[at] = value;
            let _ = check(&bad);
        }
    }
}

/// The firmware itself, of every board that was built.
#[test]
fn every_firmware_has_a_bound_that_its_stack_holds() {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/firmware");
    let folder = std::env::var_os("TENDON_FIRMWARE").unwrap_or_else(|| built.into());
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    // Boot stages are judged with their firmware; `tendon-count.elf` counts instructions and runs on no robot.
    let is_firmware =
        |name: &str| name.ends_with(".elf") && !name.ends_with("-boot.elf") && name != "tendon-count.elf";
    let elves: Vec<_> = files
        .filter(|path| path.file_name().is_some_and(|name| is_firmware(&name.to_string_lossy())))
        .collect();
    if elves.is_empty() {
        println!("SKIPPED: no firmware; run `cargo xtask test`");
    }
    for path in elves {
        let report = check_file(&path).unwrap_or_else(|failures| panic!("{}: {failures:#?}", path.display()));
        assert!(report.fits(), "{}: {report}", path.display());
    }
}
