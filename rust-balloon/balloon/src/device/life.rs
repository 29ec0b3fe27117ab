// SPDX-License-Identifier: GPL-2.0-or-later
//! Where a device begins anew: with a driver, a reset, after a bug, from a migration stream.

use super::{Balloon, Ballooned};
use crate::batch::Batch;
use crate::config::ConfigState;
use crate::features::{FOUNDING, Features, Numbering};
use crate::pageset::PAGE_LIMIT;
use crate::queue::Asked;
use crate::queue::stats::Stats;
use sparse_bitmap::SparseBitmap;

/// What a device begins anew with.
struct Beginning {
    negotiated: Features,
    config: ConfigState,
    stats: Stats,
    ballooned: Ballooned<SparseBitmap>,
}

fn told(features: Features) -> bool {
    features.contains(Features::MUST_TELL_HOST)
}

impl Balloon {
    /// Takes over the features that the driver accepted. `legacy` is a driver that speaks the
    /// interface from before virtio 1.0, whose first statistics buffer holds no values (virtio 1.3,
    /// 5.5.6.3.1).
    ///
    /// Whatever was in the balloon under other terms is forgotten. Pages that are in it for all
    /// that is known, by `actual` or by requests, are then not known one by one any more.
    pub fn set_features(&mut self, mut features: Features, legacy: bool) {
        if legacy && self.options.numbering == Numbering::Private {
            // Their bits are not those of a legacy driver, and nobody checks together what it
            // accepts.
            features.remove(FOUNDING);
        }
        if !features.contains(Features::PAGE_POISON) {
            self.config.poison_val = 0;
        }
        if !told(self.negotiated) || !told(features) {
            // A driver that did not promise so far may have inflated, and taken back, what it
            // liked.
            let was_empty = self.config.actual == 0 && self.balloon.set().is_empty();
            self.balloon.forget(self.balloon.is_complete() && was_empty);
        }
        self.negotiated = features;
        self.skip_stats = legacy;
        self.message = None;
    }

    /// A device reset: the guest has all of its memory back, and a new driver is to come. The
    /// host's target stays. Says whether `actual` is another now.
    pub fn reset(&mut self) -> bool {
        let was_inflated = self.config.actual != 0;
        self.begin(Beginning {
            negotiated: Features::empty(),
            config: ConfigState {
                actual: 0,
                poison_val: 0,
                ..self.config
            },
            stats: self.stats,
            ballooned: Ballooned {
                pages: SparseBitmap::new(PAGE_LIMIT),
                complete: true,
            },
        });
        was_inflated
    }

    /// Takes over what of a device that broke is worth keeping for this new one, which is reset
    /// next: the host's target, the guest's `actual` and statistics, and the counts. Guest memory
    /// must be set anew.
    pub fn inherit(&mut self, broken: &Balloon) {
        self.config = ConfigState {
            poison_val: 0,
            ..broken.config
        };
        self.stats = broken.stats;
        self.counters = broken.counters;
        self.malformed = broken.malformed;
    }

    /// Goes on from what a migration brought. If it says nothing about which pages are in the
    /// balloon, those that were known are forgotten.
    pub(crate) fn restore(
        &mut self,
        config: ConfigState,
        stats: Option<Stats>,
        ballooned: Option<Ballooned<SparseBitmap>>,
    ) {
        self.begin(Beginning {
            negotiated: self.negotiated,
            config,
            stats: stats.unwrap_or(self.stats),
            ballooned: ballooned.unwrap_or_else(|| Ballooned {
                pages: SparseBitmap::new(PAGE_LIMIT),
                complete: told(self.negotiated) && config.actual == 0,
            }),
        });
    }

    /// Begins anew. All fields are listed here, so that of each it is said whether it outlives a
    /// driver.
    fn begin(&mut self, beginning: Beginning) {
        let old = std::mem::replace(self, Balloon::new(self.options));
        let mut balloon = old.balloon;
        balloon.begin(beginning.ballooned.pages, beginning.ballooned.complete);
        *self = Balloon {
            options: old.options,
            memory: old.memory,
            counters: old.counters,
            malformed: old.malformed,
            refusals: old.refusals,

            negotiated: beginning.negotiated,
            config: beginning.config,
            stats: beginning.stats,
            balloon,

            // Of what was under way nothing is left.
            skip_stats: false,
            batch: Batch::default(),
            message: None,
            answer: None,
            asked: Asked::default(),
        };
    }
}
