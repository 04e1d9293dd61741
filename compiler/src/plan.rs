//! Where every value lies in the arena, fixed at compile time.
//!
//! Views (Slice) and parts of an Assemble lie inside another value's storage; elementwise steps write
//! over their operand when nothing reads it again. Storages that live at the same time do not
//! overlap. Starts are multiples of [`UNIT`] elements. States lie at the start and live for ever;
//! constants lie in the weights. A state becomes its next value in place where nothing reads it later, and the
//! network's input lies behind a state that is read together with it: then neither is copied.

use crate::program::{Op, Program, ValueId};
use crate::random::Random;
use tendon_wire::image::VIEW_RANK;

/// Granularity of storages, `f32`: the width of a block of rows.
const UNIT: usize = 4;

/// Place of every value, and the arena's length. In `f32`.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// Start of each value.
    pub(crate) starts: Vec<usize>,
    /// Elements of the arena.
    pub(crate) arena_len: usize,
    /// Of them, how many at the start are state.
    pub(crate) state_len: usize,
    /// No plan can need less: the most that lives at one time.
    pub(crate) lower_bound: usize,
}

/// A run of the arena with its time of life, both ends included.
#[derive(Clone, Copy, Debug)]
struct Storage {
    len: usize,
    first: usize,
    last: usize,
    start: usize,
}

/// Which storage is placed first.
type Order = fn(&Storage, &Storage) -> std::cmp::Ordering;

/// Programs of up to so many storages are planned in so many random orders as well.
const FEW: usize = 64;
const SHUFFLES: usize = 500;

/// Plans the arena of a program.
pub(crate) fn plan(program: &Program) -> Memory {
    let (owners, order) = owners(program);
    let joined = order.input;
    let mut storages: Vec<Option<Storage>> = vec![None; program.values.len()];
    let last_read = last_reads(program);
    for (id, value) in program.values.iter().enumerate() {
        let (root, _) = resolve(&owners, id);
        let storage = storages[root].get_or_insert(Storage { len: 0, first: id, last: id, start: 0 });
        storage.first = storage.first.min(id);
        storage.last = storage.last.max(last_read[id]).max(id);
        if root == id {
            storage.len = (value.len + value.op.room()).next_multiple_of(UNIT);
        }
    }
    let mut state_len = 0;
    let end = program.values.len();
    for (id, value) in program.values.iter().enumerate() {
        if matches!(value.op, Op::Const(_)) {
            storages[id] = None;
        }
    }
    for &id in &order.states {
        let len = program.values[id].len.next_multiple_of(UNIT);
        storages[id] = Some(Storage { len, first: 0, last: end, start: state_len });
        state_len += len;
    }
    if let (Some(last), Some(input)) = (joined, &mut storages[0]) {
        (input.start, input.last) = (state_len, input.last.max(last));
    }
    let by_size = |a: &Storage, b: &Storage| (b.len, a.first).cmp(&(a.len, b.first));
    let by_time = |a: &Storage, b: &Storage| (a.first, b.len).cmp(&(b.first, a.len));
    let by_span = |a: &Storage, b: &Storage| {
        ((b.last - b.first) * b.len, a.first).cmp(&((a.last - a.first) * a.len, b.first))
    };
    let orders: [Order; 3] = [by_size, by_time, by_span];
    let alive = |time: usize| -> usize {
        storages.iter().flatten().filter(|s| s.first <= time && time <= s.last).map(|s| s.len).sum()
    };
    let lower_bound = (0..program.values.len()).map(alive).max().unwrap_or(0);
    let fixed = joined.is_some();
    let by_rule = orders.iter().map(|&order| place(program, fixed, &storages, order));
    let (mut arena_len, mut placed) = by_rule.min_by_key(|(length, _)| *length).unwrap_or_default();
    // Where the rules leave gaps, other orders may not.
    let mut random = Random::new(1);
    for _ in 0..if storages.iter().flatten().count() <= FEW { SHUFFLES } else { 0 } {
        if arena_len <= lower_bound {
            break;
        }
        let keys: Vec<f32> = (0..storages.len()).map(|_| random.symmetric()).collect();
        let shuffled = |a: &Storage, b: &Storage| {
            let key = |s: &Storage| keys[(s.first + s.len) % keys.len()] + keys[s.last % keys.len()];
            key(a).total_cmp(&key(b))
        };
        let found = place(program, fixed, &storages, shuffled);
        if found.0 < arena_len {
            (arena_len, placed) = found;
        }
    }
    let starts = (0..program.values.len())
        .map(|id| {
            let (root, offset) = resolve(&owners, id);
            placed[root].map_or(0, |storage| storage.start) + offset
        })
        .collect();
    Memory { starts, arena_len, state_len, lower_bound }
}

/// First fit in the given order. Returns the arena's length and the placed storages.
fn place(
    program: &Program,
    input_is_fixed: bool,
    storages: &[Option<Storage>],
    order: impl Fn(&Storage, &Storage) -> std::cmp::Ordering,
) -> (usize, Vec<Option<Storage>>) {
    let mut placed = storages.to_vec();
    let mut ids: Vec<(usize, Storage)> =
        storages.iter().enumerate().filter_map(|(id, storage)| Some((id, (*storage)?))).collect();
    // States keep the place they have, and an input that lies behind one.
    let fixed = |id: usize| matches!(program.values[id].op, Op::State) || (id == 0 && input_is_fixed);
    ids.sort_by(|(i, a), (j, b)| fixed(*j).cmp(&fixed(*i)).then(order(a, b)));
    let (mut done, mut arena_len): (Vec<Storage>, usize) = (Vec::new(), 0);
    for (id, mut storage) in ids {
        let mut neighbours: Vec<&Storage> =
            done.iter().filter(|other| other.first <= storage.last && storage.first <= other.last).collect();
        neighbours.sort_by_key(|other| other.start);
        for other in neighbours {
            if storage.start + storage.len > other.start && other.start + other.len > storage.start {
                storage.start = other.start + other.len;
            }
        }
        arena_len = arena_len.max(storage.start + storage.len);
        done.push(storage);
        placed[id] = Some(storage);
    }
    (arena_len, placed)
}

/// When each value is read for the last time; the output is read at the end.
fn last_reads(program: &Program) -> Vec<usize> {
    let mut last = vec![0; program.values.len()];
    for (id, value) in program.values.iter().enumerate() {
        value.op.operands().into_iter().for_each(|operand| last[operand] = id);
    }
    program.results().for_each(|id| last[id] = program.values.len());
    last
}

/// For each value the value whose storage it lies in, and where; `None`: it has its own.
type Owners = Vec<Option<(ValueId, usize)>>;

fn resolve(owners: &Owners, id: ValueId) -> (ValueId, usize) {
    let (mut root, mut offset) = (id, 0);
    while let Some((owner, within)) = owners[root] {
        (root, offset) = (owner, offset + within);
    }
    (root, offset)
}

/// How the states lie.
struct States {
    /// In the order of their places.
    states: Vec<ValueId>,
    /// The input lies behind the last of them; last step that reads both as one.
    input: Option<ValueId>,
}

fn owners(program: &Program) -> (Owners, States) {
    let mut owners: Owners = vec![None; program.values.len()];
    let uses = program.uses();
    let last_read = last_reads(program);
    for (id, value) in program.values.iter().enumerate() {
        if let Op::Slice { x, start } = value.op {
            owners[id] = Some((x, start));
        }
    }
    for (id, value) in program.values.iter().enumerate() {
        // A fill comes with the step itself, so nothing may be there before.
        if let Op::Assemble { parts, fill: None } = &value.op {
            for (part, view) in parts {
                // Only a whole value of its own that nobody else reads may be computed in place.
                let whole = view.from_offset == 0
                    && view.dims.iter().product::<u32>() as usize == program.values[*part].len
                    && straight(view);
                let own = owners[*part].is_none() && uses[*part] == 1;
                if own && whole && may_move(program, *part) {
                    owners[*part] = Some((id, view.to_offset as usize));
                }
            }
        }
    }
    let mut order = beside_input(program, &last_read, &mut owners);
    // Values by the storage they lie in.
    let mut groups: Vec<Vec<ValueId>> = vec![Vec::new(); program.values.len()];
    for id in 0..program.values.len() {
        groups[resolve(&owners, id).0].push(id);
    }
    for (id, value) in program.values.iter().enumerate() {
        let Some(x) = value.op.overwritten() else { continue };
        let (root, offset) = resolve(&owners, x);
        if matches!(program.values[root].op, Op::Const(_) | Op::State) {
            continue;
        }
        if owners[id].is_none() && may_overwrite(&groups[root], &last_read, id, x) {
            owners[id] = Some((root, offset));
            let moved = std::mem::take(&mut groups[id]);
            groups[root].extend(moved);
        }
    }
    states_in_place(program, &last_read, &mut owners, &groups, &mut order);
    (owners, order)
}

/// Finds a state that is read together with the whole input, `[state, input]`, and puts it last.
fn beside_input(program: &Program, last_read: &[usize], owners: &mut Owners) -> States {
    let is_state = |id: ValueId| matches!(program.values[id].op, Op::State);
    let mut states: Vec<ValueId> = (0..program.values.len()).filter(|&id| is_state(id)).collect();
    let mut input: Option<ValueId> = None;
    for (id, value) in program.values.iter().enumerate() {
        let Op::Assemble { fill: None, parts } = &value.op else { continue };
        let [(state, first), (x, second)] = &**parts else { continue };
        let len = program.values[*state].len;
        let behind = straight(first)
            && straight(second)
            && (first.from_offset, first.to_offset) == (0, 0)
            && (second.from_offset, second.to_offset as usize) == (0, len);
        let whole = resolve(owners, *x) == (0, 0) && program.values[*x].len == program.values[0].len;
        let free = input.is_none() || states.last() == Some(state);
        if behind
            && whole
            && free
            && is_state(*state)
            && len.is_multiple_of(UNIT)
            && value.len == len + program.values[*x].len
        {
            owners[id] = Some((*state, 0));
            states.retain(|other| other != state);
            states.push(*state);
            input = Some(input.unwrap_or(0).max(last_read[id]));
        }
    }
    States { states, input }
}

/// Lets what a state becomes be computed in the state's own place.
fn states_in_place(
    program: &Program,
    last_read: &[usize],
    owners: &mut Owners,
    groups: &[Vec<ValueId>],
    order: &mut States,
) {
    // When anything in a state's place is read for the last time.
    let read = |owners: &Owners, state: ValueId| -> usize {
        (0..program.values.len())
            .filter(|&id| resolve(owners, id).0 == state)
            .map(|id| last_read[id])
            .max()
            .unwrap_or(0)
    };
    // Cell and output of an LSTM come in one piece: so must the states lie.
    for (id, value) in program.values.iter().enumerate() {
        let Op::Lstm { cell, .. } = value.op else { continue };
        let n = program.values[cell].len;
        let becomes = |offset: usize| {
            let place = |state: &&crate::program::State| resolve(owners, state.next) == (id, offset);
            program.states.iter().find(place).map(|state| state.value)
        };
        let (Some(first), Some(second)) = (becomes(0), becomes(n)) else { continue };
        let fits = first == cell && first != second && owners[id].is_none() && n.is_multiple_of(UNIT);
        if fits && program.values[second].len == n && read(owners, first) <= id && read(owners, second) < id {
            owners[id] = Some((first, 0));
            order.states.retain(|&state| state != first);
            let place = order.states.iter().position(|&state| state == second).unwrap_or(0);
            order.states.insert(place, first);
        }
    }
    for state in &program.states {
        let (root, offset) = resolve(owners, state.next);
        let len = program.values[state.value].len;
        let own =
            !matches!(program.values[root].op, Op::Input | Op::State | Op::Const(_) | Op::Assemble { .. });
        let simple =
            own && offset == 0 && program.values[root].len == len && program.values[root].op.room() == 0;
        let first = groups[root].iter().copied().min().unwrap_or(root);
        let last = read(owners, state.value);
        let over = program.values[first].op.overwritten() == Some(state.value);
        if simple && owners[root].is_none() && (last < first || (last == first && over)) {
            owners[root] = Some((state.value, 0));
        }
    }
}

/// Whether a view moves neighbours to neighbours, in one run.
fn straight(view: &tendon_wire::image::View) -> bool {
    let last = VIEW_RANK - 1;
    view.dims[..last].iter().all(|&dim| dim == 1)
        && (view.dims[last] == 1 || (view.from[last], view.to[last]) == (1, 1))
}

/// Whether a value may be computed inside another one's storage.
fn may_move(program: &Program, id: ValueId) -> bool {
    let op = &program.values[id].op;
    !matches!(op, Op::Input | Op::State | Op::Const(_) | Op::Assemble { .. }) && op.room() == 0
}

/// Whether step `id` may write over `x`: nothing in the same storage is read at or after this step,
/// but for `x` by this step itself, or is written after it.
fn may_overwrite(storage: &[ValueId], last_read: &[usize], id: ValueId, x: ValueId) -> bool {
    storage
        .iter()
        .all(|&other| if other == x { last_read[x] == id } else { other < id && last_read[other] < id })
}
