// SPDX-License-Identifier: GPL-2.0-or-later
//! Requests on their way into the batch.

use super::Balloon;
use crate::batch::MAX_PFNS;
use crate::error::Error;
use crate::features::{Features, QueueKind};
use crate::memory::HostRange;
use crate::message::{Format, Item, LeftOut, Malformed, Reader};
use crate::wire::{ByteOrder, PFN_BYTES, pfn_blocks};

/// A part of a request of the inflate or deflate queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestPart<'a> {
    /// Its bytes. Where requests are PFNs, all parts but the last hold whole ones.
    pub payload: &'a [u8],
    /// The length of the whole request in bytes.
    pub total: u64,
    /// The driver's byte order.
    pub order: ByteOrder,
    /// Comes with the last part, which may be empty.
    pub end: Option<RequestEnd>,
}

/// What is known of a request when all of its payload was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestEnd {
    /// How many descriptors it had.
    pub descriptors: usize,
    /// How many of them were of the direction that the queue does not use.
    pub wrong_way: usize,
}

impl Balloon {
    /// How much further payload the batch takes from `queue`, in bytes; 0 when it is to be run.
    pub fn batch_room(&self, queue: QueueKind) -> usize {
        if self.check_turn(queue).is_err() {
            return 0;
        }
        // Without MUST_TELL_HOST a large backing page counts as ballooned only if one request
        // covers it, so each request is a batch of its own there.
        let told = self.negotiated.contains(Features::MUST_TELL_HOST);
        let one_request = queue == QueueKind::Inflate && !told && self.memory.has_large_pages();
        self.batch.room(queue, one_request)
    }

    /// Whether requests of `queue` can be added: no other queue has a batch, or a message of which
    /// the rest is still to come.
    fn check_turn(&self, queue: QueueKind) -> Result<(), Error> {
        self.batch.check(queue)?;
        match &self.message {
            Some((other, _)) if *other != queue => Err(Error::BatchInWork),
            _ => Ok(()),
        }
    }

    /// Adds a part of a request to the batch of the inflate or deflate queue.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for another queue, or more payload than there is room for;
    /// [`Error::BatchInWork`] while another queue's batch is in work, or this one's, or the rest of
    /// another queue's message is still to come.
    pub fn batch_add(&mut self, queue: QueueKind, part: RequestPart<'_>) -> Result<(), Error> {
        let payload = part.payload;
        let known = matches!(queue, QueueKind::Inflate | QueueKind::Deflate);
        if !known || payload.len() > MAX_PFNS * PFN_BYTES {
            return Err(Error::InvalidArgument);
        }
        self.check_turn(queue)?;
        if payload.len() > self.batch_room(queue) {
            return Err(Error::InvalidArgument);
        }
        self.batch.open(queue)?;
        match self.message_format() {
            Some(format) => self.add_message(queue, format, &part),
            None => self.add_pfns(queue, &part),
        }
        if let Some(end) = part.end {
            // Nobody reads what these hold.
            if end.wrong_way > 0 {
                self.lose(queue);
            }
            self.counters.one(|counts| &mut counts.requests);
            self.counters.add(
                |counts| &mut counts.ignored_writable_buffers,
                end.wrong_way as u64,
            );
            self.batch.end_request(end.descriptors);
        }
        Ok(())
    }

    /// A part of a request of `queue` was not understood. The request will be acknowledged all the
    /// same: a driver waits for that.
    fn lose(&mut self, queue: QueueKind) {
        match queue {
            // The guest uses the pages that it took back by this, as soon as the request is
            // acknowledged (virtio 1.3, 5.5.6.1). Any page of the set can be one of them.
            QueueKind::Deflate => self.forget_pages(),
            // Pages that the guest gave away, and nobody knows of, stay as they are.
            QueueKind::Inflate => {}
            // Pages that an answer named, and nobody understood, are sent.
            QueueKind::HostRequest | QueueKind::Misc => {}
            // Nothing is left out of what comes over these and is understood in part.
            QueueKind::Reporting | QueueKind::Stats | QueueKind::Hint => {}
        }
    }

    /// How the driver lays out inflate and deflate requests, unless as PFNs.
    fn message_format(&self) -> Option<Format> {
        if self.negotiated.contains(Features::PAGE_RANGE) {
            Some(Format::Ranges)
        } else if self.negotiated.contains(Features::BALLOON_CHUNKS) {
            Some(Format::Chunks)
        } else {
            None
        }
    }

    /// A PFN that is no RAM is understood: there is no such page in the set, and what gets to be at
    /// its address later was never in the balloon.
    fn add_pfns(&mut self, queue: QueueKind, part: &RequestPart<'_>) {
        pfn_blocks(part.payload, part.order, |first, count| {
            self.batch.push_pages(first, count);
        });
        let trailing = (part.payload.len() % PFN_BYTES) as u64;
        self.counters
            .add(|counts| &mut counts.ignored_trailing_bytes, trailing);
        if trailing > 0 {
            self.lose(queue);
        }
    }

    fn add_message(&mut self, queue: QueueKind, format: Format, part: &RequestPart<'_>) {
        let message = self.message.take();
        let mut message =
            message.map_or_else(|| Reader::new(format, part.total), |(_, reader)| reader);
        let (memory, batch) = (&self.memory, &mut self.batch);
        message.read(part.payload, |item| match item {
            Item::Range(range) if memory.is_ram(range) => {
                batch.push_entry(range);
                Ok(())
            }
            Item::Range(_) => Err(Malformed::NotRam),
            // On these queues a header says nothing but lengths.
            Item::Head(_) => Ok(()),
        });
        batch.spend(part.payload.len());
        if part.end.is_none() {
            self.message = Some((queue, message));
            return;
        }
        if message.is_doubtful() {
            self.lose(queue);
        }
        self.note_left_out(queue, message.end());
    }

    /// Counts what was left out of a message of `queue`.
    pub(super) fn note_left_out(&mut self, queue: QueueKind, left_out: Option<LeftOut>) {
        if let Some(LeftOut { reason, bytes }) = left_out {
            self.malformed = Some(reason);
            self.counters.one(|counts| &mut counts.malformed_messages);
            self.counters
                .add(|counts| &mut counts.ignored_message_bytes, bytes);
            self.lose(queue);
        }
    }

    /// Why something was left out of a message last.
    pub fn malformed(&self) -> Option<Malformed> {
        self.malformed
    }

    /// Adds a request of the reporting queue to the batch.
    ///
    /// # Errors
    ///
    /// [`Error::BatchInWork`] while another queue's batch is in work, or this one's;
    /// [`Error::InvalidArgument`] when there is no room.
    pub fn batch_add_report(
        &mut self,
        ranges: impl IntoIterator<Item = HostRange>,
        end: RequestEnd,
    ) -> Result<(), Error> {
        self.check_turn(QueueKind::Reporting)?;
        if self.batch_room(QueueKind::Reporting) == 0 {
            return Err(Error::InvalidArgument);
        }
        self.batch.open(QueueKind::Reporting)?;
        for range in ranges {
            let mut host = range.host;
            let mut left = range.bytes;
            while let Some(gpa) = self.memory.at_host(host, left) {
                self.batch.push_range(gpa);
                left -= gpa.bytes();
                host = host.saturating_add(gpa.bytes() as usize);
            }
            self.counters
                .add(|counts| &mut counts.ignored_report_bytes, left);
        }
        self.counters.add(
            |counts| &mut counts.ignored_readable_buffers,
            end.wrong_way as u64,
        );
        self.batch.end_request(end.descriptors);
        Ok(())
    }
}
