/* Runs one case of emx-onnx-cgen's C on QEMU's mps2-an386 without an operating system: instructions of all rows,
   then the outputs as hexadecimal words. `case.h` is written per case. */
#include <stdint.h>
#include <string.h>
#include "case.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define UART 0x40004000u
#define TIMER 0x40001000u

extern uint32_t __stack_top, __bss_start, __bss_end;
void reset(void);

__attribute__((section(".vectors"), used)) static void *const vectors[2] = {&__stack_top, (void *)reset};

static void print(char c) { REGISTER(UART) = (uint32_t)c; }

static void print_word(uint32_t word) {
    for (int shift = 28; shift >= 0; shift -= 4) print("0123456789abcdef"[word >> shift & 15]);
}

static uint32_t now(void) { return ~REGISTER(TIMER + 4); }

static float output[N_OUT];

/* What one row costs beside the call. */
__attribute__((noinline)) static void nothing(const float *row) { __asm__ volatile("" ::"r"(row) : "memory"); }
__attribute__((noinline)) void measured(const float *row) { CALL(row, output); }
/* Where a trace of one row ends. */
__attribute__((noinline)) void measured_end(void) { __asm__ volatile("" ::: "memory"); }

static uint32_t time_of(void (*call)(const float *)) {
    CLEAR();
    uint32_t start = now();
    for (int row = 0; row < ROWS; row++) {
        call((const float *)rows[row]);
        measured_end();
        ADVANCE();
    }
    return now() - start;
}

int main(void) {
    REGISTER(UART + 16) = 16;
    REGISTER(UART + 8) = 1;
    REGISTER(TIMER + 8) = REGISTER(TIMER + 4) = 0xffffffffu;
    REGISTER(TIMER) = 1;
    uint32_t with = time_of(measured), without = time_of(nothing);
    print_word(with);
    print('\n');
    print_word(without);
    print('\n');
    CLEAR();
    for (int row = 0; row < ROWS; row++) {
        measured((const float *)rows[row]);
        ADVANCE();
        for (int i = 0; i < N_OUT; i++) {
            uint32_t word;
            memcpy(&word, &output[i], 4);
            print_word(word);
            print(i + 1 == N_OUT ? '\n' : ' ');
        }
    }
    return 0;
}

void reset(void) {
    REGISTER(0xe000ed88u) |= 0xfu << 20; /* CPACR: the FPU is on */
    __asm__ volatile("dsb\nisb");
    for (uint32_t *word = &__bss_start; word < &__bss_end; word++) *word = 0;
    main();
    /* Semihosting: SYS_EXIT, ADP_Stopped_ApplicationExit. */
    register uint32_t operation __asm__("r0") = 0x18, reason __asm__("r1") = 0x20026;
    __asm__ volatile("bkpt 0xab" ::"r"(operation), "r"(reason));
    for (;;) {}
}
