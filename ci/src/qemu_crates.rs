// SPDX-License-Identifier: GPL-2.0-or-later

//! How meson builds the crates of QEMU's own Rust, for sources that do not say it.
//!
//! QEMU's releases carry a meson file for each crate; Debian's tarball leaves them out. The facts
//! here are those of the crates' own manifests and build scripts, for the features QEMU uses.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::stamp;

/// What a crate is for the build.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A library in the emulator.
    Target,
    /// A library in a macro.
    Build,
    /// A macro.
    Macro,
}

/// How one crate is compiled.
struct Recipe {
    name: &'static str,
    kind: Kind,
    edition: &'static str,
    /// What its build script would set for a compiler that QEMU takes.
    cfgs: &'static [&'static str],
    features: &'static [&'static str],
    /// The subprojects it uses, without `-rs`.
    uses: &'static [&'static str],
}

const LIBC_CFGS: &[&str] = &[
    "libc_priv_mod_use",
    "libc_union",
    "libc_const_size_of",
    "libc_align",
    "libc_int128",
    "libc_core_cvoid",
    "libc_packedN",
    "libc_cfg_target_vendor",
    "libc_non_exhaustive",
    "libc_long_array",
    "libc_ptr_addr_of",
    "libc_underscore_const_names",
    "libc_const_extern_fn",
];

const RECIPES: &[Recipe] = &[
    recipe(
        "anyhow",
        Kind::Target,
        "2018",
        &["std_backtrace"],
        &["std"],
        &[],
    ),
    recipe("arbitrary-int", Kind::Target, "2021", &[], &[], &[]),
    recipe(
        "attrs",
        Kind::Build,
        "2021",
        &[],
        &[],
        &["proc-macro2-1", "syn-2"],
    ),
    recipe(
        "bilge",
        Kind::Target,
        "2021",
        &[],
        &[],
        &["arbitrary-int-1", "bilge-impl-0.2"],
    ),
    recipe(
        "bilge-impl",
        Kind::Macro,
        "2021",
        &[],
        &[],
        &[
            "itertools-0.11",
            "proc-macro-error-attr-1",
            "proc-macro-error-1",
            "proc-macro2-1",
            "quote-1",
            "syn-2",
        ],
    ),
    recipe("either", Kind::Build, "2018", &[], &["use_std"], &[]),
    recipe("foreign", Kind::Target, "2021", &[], &[], &["libc-0.2"]),
    recipe(
        "glib-sys",
        Kind::Target,
        "2021",
        &[],
        &["v2_58", "v2_60", "v2_62", "v2_64", "v2_66"],
        &["libc-0.2"],
    ),
    recipe(
        "itertools",
        Kind::Build,
        "2018",
        &[],
        &["use_std", "use_alloc"],
        &["either-1"],
    ),
    recipe(
        "libc",
        Kind::Target,
        "2015",
        LIBC_CFGS,
        &["std", "extra_traits"],
        &[],
    ),
    recipe(
        "proc-macro-error",
        Kind::Build,
        "2018",
        &["use_fallback"],
        &[],
        &["proc-macro-error-attr-1", "proc-macro2-1", "quote-1"],
    ),
    recipe(
        "proc-macro-error-attr",
        Kind::Macro,
        "2018",
        &[],
        &[],
        &["proc-macro2-1", "quote-1"],
    ),
    recipe(
        "proc-macro2",
        Kind::Build,
        "2021",
        &["wrap_proc_macro"],
        &["proc-macro"],
        &["unicode-ident-1"],
    ),
    recipe(
        "quote",
        Kind::Build,
        "2018",
        &[],
        &["proc-macro"],
        &["proc-macro2-1"],
    ),
    recipe(
        "syn",
        Kind::Build,
        "2021",
        &[],
        &[
            "full",
            "derive",
            "parsing",
            "printing",
            "clone-impls",
            "extra-traits",
            "proc-macro",
        ],
        &["proc-macro2-1", "quote-1", "unicode-ident-1"],
    ),
    recipe("unicode-ident", Kind::Build, "2018", &[], &[], &[]),
];

const fn recipe(
    name: &'static str,
    kind: Kind,
    edition: &'static str,
    cfgs: &'static [&'static str],
    features: &'static [&'static str],
    uses: &'static [&'static str],
) -> Recipe {
    Recipe {
        name,
        kind,
        edition,
        cfgs,
        features,
        uses,
    }
}

/// The first line of a file that is written here.
const MARK: &str = "# Written by `cargo xtask`\n";

/// Writes the meson file of a crate to where its wrap file wants it, unless QEMU has one.
///
/// `unpacked` is where meson unpacks the crate and copies that file to; it is removed when the
/// file changes, as meson would keep the old one.
///
/// # Errors
/// When the crate is none of those that are known here.
pub(crate) fn provide(packagefile: &Path, unpacked: &Path, name: &str) -> Result<()> {
    let path = packagefile.join("meson.build");
    let there = fs::read_to_string(&path).ok();
    if there.as_ref().is_some_and(|text| !text.starts_with(MARK)) {
        return Ok(());
    }
    let recipe = RECIPES.iter().find(|recipe| recipe.name == name);
    let recipe = recipe.ok_or_else(|| {
        let what = format!("these QEMU sources have no meson file for the crate {name}");
        Error::new(
            what,
            "give the sources of a QEMU release with --qemu-src DIR",
        )
    })?;
    let directory = packagefile.file_name().unwrap_or_default();
    let wanted = recipe.meson(&directory.to_string_lossy());
    if there.as_ref() == Some(&wanted) {
        return Ok(());
    }
    stamp::remove_dir(unpacked)?;
    stamp::write_whole(&path, &wanted)
}

impl Recipe {
    fn meson(&self, directory: &str) -> String {
        let native = self.kind != Kind::Target;
        let mut args = vec!["'--cap-lints'".to_owned(), "'allow'".to_owned()];
        let features = self
            .features
            .iter()
            .map(|feature| format!("feature=\"{feature}\""));
        for cfg in self.cfgs.iter().map(|&cfg| cfg.to_owned()).chain(features) {
            args.extend(["'--cfg'".to_owned(), format!("'{cfg}'")]);
        }
        let uses = self.uses.iter();
        let uses = uses.map(|used| format!("dependency('{used}-rs', native: {native})"));
        let uses: Vec<String> = uses.collect();
        let name = self.name.replace('-', "_");
        let (function, more) = match self.kind {
            Kind::Macro => ("import('rust').proc_macro", String::new()),
            _ => (
                "static_library",
                format!("  native: {native},\n  rust_abi: 'rust',\n"),
            ),
        };
        format!(
            "{MARK}project('{directory}', 'rust', meson_version: '>=1.5.0')\n\
             built = {function}(\n  '{name}',\n  'src/lib.rs',\n{more}  \
             override_options: ['rust_std={0}', 'build.rust_std={0}'],\n  \
             rust_args: [{1}],\n  dependencies: [{2}],\n)\n\
             found = declare_dependency(link_with: built)\n\
             meson.override_dependency('{directory}', found, native: {native})\n",
            self.edition,
            args.join(", "),
            uses.join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_becomes_a_meson_file() {
        let quote = RECIPES
            .iter()
            .find(|recipe| recipe.name == "quote")
            .unwrap();
        let text = quote.meson("quote-1-rs");
        assert!(text.contains("\nproject('quote-1-rs', 'rust', "));
        assert!(text.contains("'--cfg', 'feature=\"proc-macro\"'"));
        assert!(text.contains("dependency('proc-macro2-1-rs', native: true)"));
        assert!(text.ends_with("meson.override_dependency('quote-1-rs', found, native: true)\n"));
    }

    #[test]
    fn every_crate_that_is_used_has_a_recipe() {
        for used in RECIPES.iter().flat_map(|recipe| recipe.uses) {
            let name = used.rsplit_once('-').unwrap().0;
            assert!(RECIPES.iter().any(|recipe| recipe.name == name), "{name}");
        }
    }
}
