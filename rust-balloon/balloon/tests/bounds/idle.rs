// SPDX-License-Identifier: GPL-2.0-or-later
//! A host that does nothing.

use balloon::host::{Host, Refused};
use balloon::memory::{BlockId, BlockSpan};

pub(crate) struct Idle;

impl Host for Idle {
    fn discard(&mut self, _: BlockId, _: &[BlockSpan]) -> Result<(), Refused> {
        Ok(())
    }

    fn drop_private(&mut self, _: BlockId, _: &[BlockSpan]) -> Result<(), Refused> {
        Ok(())
    }

    fn free(&mut self, _: BlockId, _: &[BlockSpan]) -> Result<(), Refused> {
        Ok(())
    }

    fn populate(&mut self, _: BlockId, _: &[BlockSpan]) {}
}
