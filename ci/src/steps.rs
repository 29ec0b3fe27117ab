// SPDX-License-Identifier: GPL-2.0-or-later

//! Building QEMU after each patch of a series, as each must leave a tree that builds.

use crate::error::Result;
use crate::git::Git;
use crate::paths::Paths;
use crate::qemu;
use crate::run::output;
use crate::series::{Series, patch_files};
use crate::source::{BASE, link_glue};

/// Builds the sources after every patch, in a work tree of its own.
///
/// # Errors
/// At the first step that does not build.
pub(crate) fn build_each(paths: &Paths, series: &'static Series, git: &Git) -> Result<()> {
    let steps = paths.series(series.name).join("steps");
    let tree = Git::new(&steps.join("src"));
    if tree.dir().exists() {
        tree.run(&["reset", "-q", "--hard", BASE])?;
    } else {
        git.run(&["worktree", "prune"])?;
        let mut add = git.command(&["worktree", "add", "-q", "--detach"]);
        output(add.arg(tree.dir()).arg(BASE))?;
    }
    link_glue(paths, &tree)?;
    for file in patch_files(paths, series.name)? {
        println!(
            "  with {}",
            file.file_name().unwrap_or_default().to_string_lossy()
        );
        output(tree.command(&["apply", "--index"]).arg(&file))?;
        qemu::build_in(paths, series, &tree, &steps.join("build-steps"))?;
    }
    Ok(())
}
