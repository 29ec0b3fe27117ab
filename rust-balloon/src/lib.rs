//! virtio-balloon device logic.
