// SPDX-License-Identifier: GPL-2.0-or-later
//! Where a device begins anew: with a driver, a reset, after a bug, from a migration stream.

use super::{Balloon, Ballooned};
use crate::bitmap::PageBitmap;
use crate::config::ConfigState;
use crate::features::{FOUNDING, Features, Numbering};
use crate::pageset::PAGE_LIMIT;
use crate::queue::stats::Stats;

impl Balloon {
    /// Takes over the features that the driver accepted. `legacy` is a driver that speaks the
    /// interface from before virtio 1.0, whose first statistics buffer holds no values (virtio 1.3,
    /// 5.5.6.3.1).
    ///
    /// Whatever was in the balloon under other terms is forgotten.
    pub fn set_features(&mut self, mut features: Features, legacy: bool) {
        if legacy && self.options.numbering == Numbering::Private {
            // Their bits are not those of a legacy driver, and nobody checks together what it accepts.
            features.remove(FOUNDING);
        }
        if !features.contains(Features::MUST_TELL_HOST) {
            self.balloon.clear_all();
            self.held.cancel_all();
            self.balloon_complete = self.config.actual == 0;
        }
        self.negotiated = features;
        self.skip_stats = legacy;
        self.message = None;
    }

    /// A device reset: the guest has all of its memory back, and a new driver is to come. The
    /// host's target stays. Says whether `actual` is another now.
    pub fn reset(&mut self) -> bool {
        self.batch.clear();
        self.message = None;
        self.answer = None;
        self.balloon.clear_all();
        self.held.cancel_all();
        self.balloon_complete = true;
        self.loaded = None;
        self.negotiated = Features::empty();
        self.skip_stats = false;
        let was_inflated = self.config.actual != 0;
        self.config = ConfigState {
            num_pages: self.config.num_pages,
            ..ConfigState::default()
        };
        was_inflated
    }

    /// Takes over what of a device that broke is worth keeping for this new one: the host's target,
    /// the guest's `actual`, and the counts. Guest memory must be set anew.
    pub fn inherit(&mut self, broken: &Balloon) {
        self.config = broken.config;
        self.counters = broken.counters;
    }

    /// Goes on from what a migration brought. If it says nothing about which pages are in the
    /// balloon, those that were known are forgotten.
    pub(crate) fn restore(
        &mut self,
        config: ConfigState,
        stats: Option<Stats>,
        ballooned: Option<Ballooned<PageBitmap>>,
    ) {
        self.batch.clear();
        self.message = None;
        self.config = config;
        let ballooned = ballooned.unwrap_or_else(|| Ballooned {
            pages: PageBitmap::new(PAGE_LIMIT),
            complete: config.actual == 0,
        });
        // Those that the source held are in the set, and all of that is given back here.
        self.held.cancel_all();
        self.balloon = ballooned.pages;
        self.balloon_complete = ballooned.complete;
        self.loaded = Some(0);
        self.skip_stats = false;
        if let Some(stats) = stats {
            self.stats = stats;
        }
    }
}
