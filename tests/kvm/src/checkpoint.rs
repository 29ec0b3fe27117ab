// SPDX-License-Identifier: GPL-2.0-or-later
//! A copy of RAM that is brought up to date page by page, as a checkpointing tool does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::PAGE;
use crate::block::Block;

/// A copy of blocks of RAM.
#[derive(Debug, Default)]
pub struct Checkpoint {
    copies: Vec<(Arc<Block>, Vec<u64>)>,
}

impl Checkpoint {
    /// Adds a block, and copies all of it.
    pub fn add(&mut self, block: &Arc<Block>) {
        let words = (0..block.memory().len() / 8).map(|word| read(block, word));
        self.copies.push((block.clone(), words.collect()));
    }

    /// Copies pages, as they are now; gives their number.
    ///
    /// # Panics
    /// When one of them is in no block.
    pub fn copy(&mut self, pages: &[u64]) -> usize {
        for page in pages {
            let holds = |(block, _): &&mut (Arc<Block>, Vec<u64>)| block.pages().contains(page);
            let (block, words) = self.copies.iter_mut().find(holds).expect("it is RAM");
            let first = (page - block.pages().start) * (PAGE / 8);
            for word in first..first + PAGE / 8 {
                words[word as usize] = read(block, word);
            }
        }
        pages.len()
    }

    /// The pages whose copies are not what is in RAM, in any of their bytes.
    pub fn differing(&self) -> Vec<u64> {
        let mut found = Vec::new();
        for (block, words) in &self.copies {
            for (page, copy) in block.pages().zip(words.chunks((PAGE / 8) as usize)) {
                let first = (page - block.pages().start) * (PAGE / 8);
                if !(first..)
                    .zip(copy)
                    .all(|(word, copied)| read(block, word) == *copied)
                {
                    found.push(page);
                }
            }
        }
        found
    }
}

fn read(block: &Block, word: u64) -> u64 {
    block.memory().word(word * 8).load(Ordering::SeqCst)
}
