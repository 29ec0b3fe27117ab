// SPDX-License-Identifier: GPL-2.0-or-later
//! What a host may be asked for.

use balloon::host::{Host, Refused};
use balloon::memory::{BlockId, BlockSpan, Section};

/// More spans than a slice has time for: each costs two microseconds, and it has half a
/// millisecond.
const MOST_SPANS: usize = 1000;

/// A host that checks what it is asked for.
pub(super) struct Checker {
    sections: Vec<Section>,
    inhibit: bool,
    refuse: bool,
    spans: usize,
}

impl Checker {
    pub(super) fn new(sections: Vec<Section>, inhibit: bool, refuse: bool) -> Checker {
        Checker {
            sections,
            inhibit,
            refuse,
            spans: 0,
        }
    }

    fn check(&mut self, block: BlockId, spans: &[BlockSpan]) {
        assert!(!self.inhibit, "asked although discards are inhibited");
        self.spans += spans.len();
        assert!(self.spans <= MOST_SPANS, "too much for a slice");
        for span in spans {
            let inside = |section: &Section| {
                let start = span.offset.checked_sub(section.offset);
                let end = start.and_then(|start| start.checked_add(span.bytes));
                section.block == block && end.is_some_and(|end| end <= section.gpa.bytes())
            };
            let section = self.sections.iter().find(|section| inside(section));
            let section = section.unwrap_or_else(|| panic!("{block:?} {span:x?} is not RAM"));
            assert!(span.bytes > 0);
            assert_eq!(span.offset % section.page_size, 0, "{span:x?}");
            assert_eq!(span.bytes % section.page_size, 0, "{span:x?}");
        }
    }

    fn give_back(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
        self.check(block, spans);
        if self.refuse {
            let error = balloon::error::HostError(12);
            return Err(Refused {
                done: spans.len() / 2,
                error,
            });
        }
        Ok(())
    }
}

impl Host for Checker {
    fn discard(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
        self.give_back(block, spans)
    }

    fn drop_private(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
        self.give_back(block, spans)
    }

    fn free(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
        self.give_back(block, spans)
    }

    fn populate(&mut self, block: BlockId, spans: &[BlockSpan]) {
        // What will be used again is named by the page, also where pages are large.
        self.spans += spans.len();
        let is_ram = |span: &BlockSpan| {
            self.sections.iter().any(|section| {
                section.block == block && span.offset >= section.offset && span.bytes > 0
            })
        };
        assert!(!self.inhibit && spans.iter().all(is_ram));
    }
}
