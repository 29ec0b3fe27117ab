// SPDX-License-Identifier: GPL-2.0-or-later
//! What was measured, and the median and spread of it.

use crate::plan::{Backing, Operation, Pattern};

/// The name of the system call alone among the devices.
pub const RAW: &str = "raw";

/// What is compared within one cell of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// What the RAM is made of.
    pub backing: Backing,
    /// What is done.
    pub operation: Operation,
    /// In which order.
    pub pattern: Pattern,
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What was measured.
    pub case: Case,
    /// The device's name, or [`RAW`].
    pub device: &'static str,
    /// Counted from 1.
    pub round: u32,
    /// From the notification to the last answer, for each page.
    pub wall_ns: f64,
    /// Processor time, with what was done after the answer, for each page.
    pub cpu_ns: f64,
    /// How much of what was given away the host has back, from 0 to 1.
    pub freed: Option<f64>,
    /// How much of it was in transparent huge pages before.
    pub huge: Option<f64>,
}

/// A median, and the least and the most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle value, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// `None` when there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let upper = *values.get(values.len() / 2)?;
        let lower = values[(values.len() - 1) / 2];
        Some(Spread {
            median: (lower + upper) / 2.0,
            least: values[0],
            most: values[values.len() - 1],
        })
    }
}

/// Reads one figure of a sample.
pub type Of = fn(&Sample) -> Option<f64>;

/// All measurements of `bench device`.
#[derive(Debug, Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// The cases that were measured, in order.
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for backing in Backing::ALL {
            for operation in [Operation::Inflate, Operation::Deflate, Operation::Report] {
                cases.extend(Pattern::ALL.map(|pattern| Case {
                    backing,
                    operation,
                    pattern,
                }));
            }
        }
        cases.retain(|case| self.0.iter().any(|s| s.case == *case));
        cases
    }

    /// A figure of a device in a case.
    pub fn spread(&self, case: Case, device: &str, of: Of) -> Option<Spread> {
        let mine = self.0.iter();
        let mine = mine.filter(|s| s.case == case && s.device == device);
        Spread::of(mine.filter_map(of))
    }

    /// The median processor time a page.
    pub fn cpu(&self, case: Case, device: &str) -> Option<f64> {
        Some(self.spread(case, device, |s| Some(s.cpu_ns))?.median)
    }

    /// How many times as much processor time `device` takes as `base`.
    pub fn ratio(&self, case: Case, device: &str, base: &str) -> Option<f64> {
        let (device, base) = (self.cpu(case, device)?, self.cpu(case, base)?);
        // A clock's own error, where nothing is to be done.
        (base > 0.0).then(|| device / base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_of_medians_of_one_case() {
        let case = Case {
            backing: Backing::Small,
            operation: Operation::Inflate,
            pattern: Pattern::Random,
        };
        let sample = |device, cpu_ns| Sample {
            case,
            device,
            round: 1,
            wall_ns: 0.0,
            cpu_ns,
            freed: None,
            huge: None,
        };
        let all = [
            ("stock", 60.0),
            ("ours", 10.0),
            ("ours", 1e6),
            ("ours", 20.0),
        ];
        let samples = Samples(all.map(|(name, ns)| sample(name, ns)).to_vec());
        assert_eq!(samples.ratio(case, "stock", "ours"), Some(3.0));
        let backing = Backing::Thp;
        assert_eq!(
            samples.ratio(Case { backing, ..case }, "stock", "ours"),
            None
        );
        assert_eq!(samples.cases(), [case]);
    }
}
