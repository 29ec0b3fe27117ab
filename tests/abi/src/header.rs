// SPDX-License-Identifier: GPL-2.0-or-later
//! What the header declares and what C code calls, found by name.

use std::collections::BTreeSet;

/// The functions that a header declares: every `vbr_` name with a `(` behind it, outside of comments.
pub fn declared(header: &str) -> BTreeSet<String> {
    calls(&without_comments(header)).collect()
}

/// The functions that C code calls, directly or by handing their name to a macro.
pub fn called(source: &str) -> BTreeSet<String> {
    let code = without_comments(source);
    names(&code).map(|(name, _)| name.to_owned()).collect()
}

fn calls(code: &str) -> impl Iterator<Item = String> + '_ {
    names(code)
        .filter(|(_, rest)| rest.trim_start().starts_with('('))
        .map(|(name, _)| name.to_owned())
}

/// Every name that begins with `vbr_`, with what stands behind it.
fn names(code: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices("vbr_").filter_map(move |(start, _)| {
        if code[..start].ends_with(is_name) {
            return None;
        }
        let rest = &code[start..];
        Some(rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len())))
    })
}

/// `text` without `/* */` and `//` comments; strings that hold such marks are not known here.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        code.push_str(&rest[..start]);
        code.push(' ');
        let comment = &rest[start + 2..];
        rest = comment.find("*/").map_or("", |end| &comment[end + 2..]);
    }
    code.push_str(rest);
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn declarations_are_found() {
        let header = "/* `vbr_no(` */ int vbr_a_b(void); // vbr_c()\nint\nvbr_d\n(int vbr_e);";
        assert_eq!(declared(header), set(&["vbr_a_b", "vbr_d"]));
        assert_eq!(declared(""), set(&[]));
    }

    #[test]
    fn calls_are_found_in_macros_too() {
        let source = "X(vbr_a, (device)) my_vbr_b(); /* vbr_c() vbr_d()";
        assert_eq!(called(source), set(&["vbr_a"]));
    }
}
