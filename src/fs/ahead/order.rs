//! The order in which somebody opens the files of a directory.

use std::collections::HashMap;

use rustix::fs::FileType;

use super::walk::Level;

/// Files between two that are opened one after the other: some may be left out, or opened by another thread.
const NEAR: i64 = 8;
/// Opens that must be near, where so many are known.
const WITNESSES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As the directory is listed: tar, grep -r, find.
    Listing,
    /// By number: cp, and whoever spares the disk.
    Inode,
    /// By plaintext name: shells, rsync, git.
    Name,
}

impl Order {
    pub const ALL: [Self; 3] = [Self::Listing, Self::Inode, Self::Name];

    /// The order in which `file` comes after the files `before` (the newest first), if it does in one.
    pub fn of(level: &Level, file: u64, before: &[u64]) -> Option<Self> {
        let mut best: Option<(i64, Self)> = None;
        for order in Self::ALL {
            if let Some(distance) = order.distance(level, file, before)
                && best.is_none_or(|(least, _)| distance < least)
            {
                best = Some((distance, order));
            }
        }
        best.map(|(_, order)| order)
    }

    /// Sorts the entries of a directory that was just listed.
    pub fn sort(self, level: &mut Level) {
        match self {
            Self::Listing => {}
            Self::Inode => level.entries.sort_by_key(|entry| entry.id),
            Self::Name => level.entries.sort_by(|a, b| a.plain.cmp(&b.plain)),
        }
    }

    /// How far `file` lies behind the nearest of `before`, if enough of them are near.
    fn distance(self, level: &Level, file: u64, before: &[u64]) -> Option<i64> {
        let mut entries: Vec<_> = level.entries.iter().filter(|entry| entry.kind != FileType::Directory).collect();
        match self {
            Self::Listing => {}
            Self::Inode => entries.sort_by_key(|entry| entry.id),
            Self::Name => entries.sort_by(|a, b| a.plain.cmp(&b.plain)),
        }
        let places: HashMap<u64, i64> = (0..).zip(entries).map(|(place, entry)| (entry.id, place)).collect();
        let at = *places.get(&file)?;
        let distances = before.iter().filter_map(|file| places.get(file)).map(|place| at - place);
        let near: Vec<i64> = distances.filter(|distance| distance.abs() <= NEAR).collect();
        if near.len() < WITNESSES.min(before.len()) {
            return None;
        }
        near.into_iter().filter(|distance| *distance > 0).min()
    }
}
