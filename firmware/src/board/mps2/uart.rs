//! The board's line: CMSDK UART0 (Arm DDI 0479).

use super::{BoardClock, FPGA, read, write};
use crate::board::Acknowledge;
use core::convert::Infallible;
use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};

/// Interrupt of a received byte.
pub(super) const RX_IRQ: u16 = FPGA.uart0_rx_irq;
const DATA: usize = FPGA.uart0 + 0x0;
const STATE: usize = FPGA.uart0 + 0x4;
const CTRL: usize = FPGA.uart0 + 0x8;
const INT: usize = FPGA.uart0 + 0xc;
const BAUDDIV: usize = FPGA.uart0 + 0x10;
const STATE_TX_FULL: u32 = 1;
const STATE_RX_FULL: u32 = 2;
const CTRL_TX_RX_AND_INTERRUPTS: u32 = 0b1111;
const INT_TX: u32 = 1;
const INT_RX: u32 = 2;

/// Receiving half.
pub struct Rx(());

/// Sending half.
pub struct Tx(());

/// Both halves at 1 Mbaud.
pub(super) fn take(_: BoardClock) -> (Rx, Tx) {
    write(BAUDDIV, 25);
    write(CTRL, CTRL_TX_RX_AND_INTERRUPTS);
    (Rx(()), Tx(()))
}

impl ErrorType for Rx {
    type Error = Infallible;
}

impl ReadReady for Rx {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(read(STATE) & STATE_RX_FULL != 0)
    }
}

impl Read for Rx {
    /// Waits for one byte. Clears the interrupt.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(place) = buffer.first_mut() else { return Ok(0) };
        while !self.read_ready()? {}
        write(INT, INT_RX);
        *place = read(DATA) as u8;
        Ok(1)
    }
}

impl Acknowledge for Rx {
    /// Reading does.
    fn acknowledge(&mut self) {}
}

impl ErrorType for Tx {
    type Error = Infallible;
}

impl WriteReady for Tx {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        Ok(read(STATE) & STATE_TX_FULL == 0)
    }
}

impl Write for Tx {
    /// Waits until one byte is taken.
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        let Some(byte) = buffer.first() else { return Ok(0) };
        while !self.write_ready()? {}
        write(DATA, (*byte).into());
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while !self.write_ready()? {}
        Ok(())
    }
}

impl Acknowledge for Tx {
    fn acknowledge(&mut self) {
        write(INT, INT_TX);
    }
}
