// SPDX-License-Identifier: GPL-2.0-or-later
//! What an operator tells the monitor, with values that are odd.

use fuzz::random::Random;
use serde_json::{Value, json};

use crate::session::{Checked, Session};

/// The balloon's path.
const BALLOON: &str = "/machine/peripheral/balloon0";
const NUMBERS: [i64; 11] = [
    0,
    1,
    -1,
    4095,
    1 << 20,
    32 << 20,
    64 << 20,
    1 << 32,
    1 << 44,
    i64::MAX,
    i64::MIN,
];
const PROPERTIES: [&str; 8] = [
    "guest-stats",
    "guest-stats-polling-interval",
    "free-page-hint-window",
    "free-page-hint-state",
    "ballooned-bytes",
    "held-bytes",
    "discard-inhibited",
    "malformed-message-reason",
];

/// Gives one command; says whether that stopped the machine.
pub(crate) fn command(session: &mut Session, random: &mut Random) -> Checked<bool> {
    let command = any(random);
    session.monitor(&command)?;
    Ok(command["execute"] == "stop")
}

fn any(random: &mut Random) -> Value {
    let number = NUMBERS[random.below(NUMBERS.len())];
    let property = PROPERTIES[random.below(PROPERTIES.len())];
    let list = json!({ "id": "dirty0" });
    match random.below(16) {
        0 | 1 => call("balloon", json!({ "value": number })),
        2 => call("query-balloon", json!({})),
        3 | 4 => call("qom-get", json!({ "path": BALLOON, "property": property })),
        5 => {
            let set = json!({ "path": BALLOON, "property": property, "value": number });
            call("qom-set", set)
        }
        6 => call("qom-list-get", json!({ "paths": [BALLOON] })),
        7 => call("stop", json!({})),
        8 => call("cont", json!({})),
        9 => call("system_reset", json!({})),
        10 => {
            let size = number.unsigned_abs().min(1 << 16);
            let list = json!({
                "qom-type": "dirty-page-list", "id": "dirty0",
                "max-dirty": size, "no-dups": random.one_in(2),
            });
            call("object-add", list)
        }
        11 => call("object-del", list),
        12 => call("dirty-page-list-start", list),
        13 => call("dirty-page-list-stop", list),
        14 => {
            let most = number.unsigned_abs().min(1 << 31);
            call(
                "dirty-page-list-fetch",
                json!({ "id": "dirty0", "max-pages": most }),
            )
        }
        _ => call("dirty-page-list-reset", list),
    }
}

fn call(command: &str, arguments: Value) -> Value {
    json!({ "execute": command, "arguments": arguments })
}
