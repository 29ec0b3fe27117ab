// SPDX-License-Identifier: GPL-2.0-or-later
//! What must not get worse: ratios within one run, held against a file.

use guest::{Error, Result};
use serde_json::Value;

use crate::figures::Case;
use crate::linux::{self, FIGURES};
use crate::plan::{Backing, Operation, Pattern};
use crate::results::Results;

/// The file, as it was when this was built.
pub const FLOORS: &str = include_str!("../floors.json");

/// What came of one line of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What is held against what.
    pub what: String,
    /// The ratio of this run, where it was measured.
    pub ratio: Option<f64>,
    /// At least this, or at most that.
    pub least: Option<f64>,
    /// See `least`.
    pub most: Option<f64>,
}

impl Verdict {
    /// Whether it was measured and is on the wrong side.
    pub fn fell(&self) -> bool {
        let Some(ratio) = self.ratio else {
            return false;
        };
        self.least.is_some_and(|least| ratio < least) || self.most.is_some_and(|most| ratio > most)
    }
}

/// Holds `results` against the lines of `floors`.
///
/// # Errors
/// When a line makes no sense.
pub fn check(floors: &str, results: &Results) -> Result<Vec<Verdict>> {
    let file: Value = serde_json::from_str(floors).map_err(|e| odd(&e.to_string()))?;
    let lines = |name: &str| file[name].as_array().cloned().unwrap_or_default();
    let mut verdicts = Vec::new();
    for line in lines("device") {
        let case = case(&line)?;
        let (over, under) = (word(&line, "over")?, word(&line, "under")?);
        let names = (
            case.backing.name(),
            case.operation.name(),
            case.pattern.name(),
        );
        let what = format!("{} {} {}: {over} / {under}", names.0, names.1, names.2);
        verdicts.push(verdict(
            what,
            results.device.ratio(case, over, under),
            &line,
        ));
    }
    for line in lines("latency") {
        let input = word(&line, "input")?;
        let of = |device: &str, part: f64| {
            let mut all = results.latency.iter();
            let found = all.find(|a| a.input.name() == input && a.device == device)?;
            Some(found.percentile_ms(part))
        };
        let what = format!("{input}: longest answer of stock / 99.9 % of ours");
        let ratio = of("stock", 1.0).zip(of("ours", 0.999));
        verdicts.push(verdict(what, ratio.map(|(s, o)| s / o), &line));
    }
    for line in lines("guest") {
        let (over, under) = (word(&line, "over")?, word(&line, "under")?);
        let device = word(&line, "device")?;
        let of = |figure: &str| {
            let index = FIGURES.iter().position(|(key, _)| *key == figure);
            let index = index.ok_or_else(|| odd(&format!("no figure {figure}")))?;
            Ok(linux::spread(&results.guest, device, index).map(|s| s.median))
        };
        let ratio = of(over)?.zip(of(under)?).filter(|(_, under)| *under > 0.0);
        let what = format!("guest, {device}: {over} / {under}");
        verdicts.push(verdict(what, ratio.map(|(o, u)| o / u), &line));
    }
    Ok(verdicts)
}

fn verdict(what: String, ratio: Option<f64>, line: &Value) -> Verdict {
    Verdict {
        what,
        ratio,
        least: line["least"].as_f64(),
        most: line["most"].as_f64(),
    }
}

fn case(line: &Value) -> Result<Case> {
    let (backing, operation) = (word(line, "backing")?, word(line, "operation")?);
    let pattern = word(line, "pattern")?;
    let operations = [Operation::Inflate, Operation::Deflate, Operation::Report];
    let found = (
        Backing::ALL.into_iter().find(|b| b.name() == backing),
        operations.into_iter().find(|o| o.name() == operation),
        Pattern::ALL.into_iter().find(|p| p.name() == pattern),
    );
    let (Some(backing), Some(operation), Some(pattern)) = found else {
        return Err(odd(&format!("nothing is called so: {line}")));
    };
    Ok(Case {
        backing,
        operation,
        pattern,
    })
}

fn word<'a>(line: &'a Value, key: &str) -> Result<&'a str> {
    let word = line[key].as_str();
    word.ok_or_else(|| odd(&format!("{key} is missing: {line}")))
}

fn odd(what: &str) -> Error {
    Error::Missing(format!("the file of floors: {what}"))
}

/// Prints what came of each line; gives whether none fell.
pub fn print(verdicts: &[Verdict]) -> bool {
    println!("\nHeld against the floors");
    for verdict in verdicts {
        let limit = match (verdict.least, verdict.most) {
            (Some(least), _) => format!("at least {least}"),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => "no limit".into(),
        };
        let ratio = verdict.ratio.map(|r| format!("{r:.2}"));
        let word = match (&ratio, verdict.fell()) {
            (None, _) => "not measured",
            (_, true) => "FELL",
            (_, false) => "holds",
        };
        let ratio = ratio.unwrap_or("-".into());
        println!("  {:<52}{ratio:>10}  {limit:<16}{word}", verdict.what);
    }
    !verdicts.iter().any(Verdict::fell)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(ratio: Option<f64>) -> Verdict {
        Verdict {
            what: String::new(),
            ratio,
            least: Some(2.0),
            most: Some(3.0),
        }
    }

    #[test]
    fn what_is_on_the_wrong_side_fell() {
        assert!(verdict(Some(1.9)).fell() && verdict(Some(3.1)).fell());
        assert!(!verdict(Some(2.5)).fell() && !verdict(None).fell());
    }

    #[test]
    fn every_line_of_the_file_makes_sense() {
        let file: Value = serde_json::from_str(FLOORS).unwrap();
        for line in file["device"].as_array().unwrap() {
            case(line).unwrap();
            assert!(line["least"].is_number() != line["most"].is_number());
        }
    }
}
