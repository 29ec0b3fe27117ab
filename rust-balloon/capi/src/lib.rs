// SPDX-License-Identifier: GPL-2.0-or-later
//! The C ABI of the balloon and of the dirty page list, and the only crate with `unsafe`.
//!
//! Conventions, for all functions:
//!
//! - A function returns a [`status::VbrStatus`]; its outputs are written only when that is `OK`.
//! - A NULL pointer where one is needed is answered with `INVALID_ARGUMENT`, never followed.
//! - What is refused leaves everything as it was, but where the function says otherwise.
//! - An argument that is an enum must be one of its values: that is the caller's to see to.
//! - A panic inside ends at the boundary: the call returns `BROKEN`, and so does every later call on
//!   that device until `vbr_device_reset` makes it anew or `vbr_device_free` ends it.
//! - A callback that calls back into its device gets `BUSY`. So does a second thread.

#[cfg(test)]
mod arguments;
pub mod batch;
#[cfg(test)]
mod broken;
mod claim;
pub mod config;
pub mod device;
pub mod dirty;
pub mod features;
pub mod guard;
pub mod hints;
pub mod host_ops;
#[cfg(feature = "inject")]
pub mod inject;
pub mod log;
pub mod ram;
pub mod requests;
pub mod state;
pub mod stats;
pub mod status;
