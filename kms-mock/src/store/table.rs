//! One table: its records in memory, what has changed since the last commit, and its rows in the database.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::StoreError;
use crate::clock::Timestamp;

/// What a table holds: stored as JSON under its id.
pub trait Record: Serialize + DeserializeOwned {
    const TABLE: &'static str;

    fn id(&self) -> &str;

    /// When time alone changes this record next.
    fn due(&self) -> Option<Timestamp> {
        None
    }
}

/// Records by id. Changes are seen at once, and kept or undone together with those of the other tables.
pub struct Table<T> {
    rows: BTreeMap<String, Arc<T>>,
    /// What stood where something has changed, at its first change.
    before: BTreeMap<String, Option<Arc<T>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { rows: BTreeMap::new(), before: BTreeMap::new() }
    }
}

impl<T: Record> Table<T> {
    pub fn put(&mut self, record: T) -> Arc<T> {
        let (id, record) = (record.id().to_owned(), Arc::new(record));
        let old = self.rows.insert(id.clone(), record.clone());
        self.before.entry(id).or_insert(old);
        record
    }

    pub fn remove(&mut self, id: &str) -> Option<Arc<T>> {
        let old = self.rows.remove(id)?;
        self.before.entry(id.to_owned()).or_insert(Some(old.clone()));
        Some(old)
    }

    pub fn get(&self, id: &str) -> Option<&Arc<T>> {
        self.rows.get(id)
    }

    /// In the order of the ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.rows.values()
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Records that time has changed by now.
    pub fn due(&self, now: Timestamp) -> Vec<Arc<T>> {
        self.iter().filter(|record| record.due().is_some_and(|at| at <= now)).cloned().collect()
    }

    fn definition() -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(T::TABLE)
    }
}

/// What the store does with each of its tables.
pub trait AnyTable {
    fn create(&self, transaction: &WriteTransaction) -> Result<(), StoreError>;
    fn load(&mut self, transaction: &ReadTransaction) -> Result<(), StoreError>;
    /// Writes the rows that have changed.
    fn write(&self, transaction: &WriteTransaction) -> Result<(), StoreError>;
    /// Keeps the changes, and says when the first of the changed records is due.
    fn settle(&mut self) -> Option<Timestamp>;
    fn roll_back(&mut self);
    /// When the first of all records is due.
    fn next_due(&self) -> Option<Timestamp>;
}

impl<T: Record> AnyTable for Table<T> {
    fn create(&self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        transaction.open_table(Self::definition()).map(drop).map_err(StoreError::database)
    }

    fn load(&mut self, transaction: &ReadTransaction) -> Result<(), StoreError> {
        let table = transaction.open_table(Self::definition()).map_err(StoreError::database)?;
        for row in table.iter().map_err(StoreError::database)? {
            let (id, json) = row.map_err(StoreError::database)?;
            let id = id.value().to_owned();
            let record = serde_json::from_slice(json.value()).map_err(|error| StoreError::BadRow {
                table: T::TABLE,
                id: id.clone(),
                reason: error.to_string(),
            })?;
            self.rows.insert(id, Arc::new(record));
        }
        Ok(())
    }

    fn write(&self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        if self.before.is_empty() {
            return Ok(());
        }
        let mut table = transaction.open_table(Self::definition()).map_err(StoreError::database)?;
        for id in self.before.keys() {
            match self.rows.get(id) {
                Some(record) => {
                    let json = Zeroizing::new(serde_json::to_vec(&**record).map_err(StoreError::database)?);
                    table.insert(id.as_str(), json.as_slice()).map_err(StoreError::database)?;
                }
                None => drop(table.remove(id.as_str()).map_err(StoreError::database)?),
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Option<Timestamp> {
        let changed = std::mem::take(&mut self.before).into_keys();
        changed.filter_map(|id| self.rows.get(&id)?.due()).min()
    }

    fn roll_back(&mut self) {
        for (id, old) in std::mem::take(&mut self.before) {
            match old {
                Some(record) => drop(self.rows.insert(id, record)),
                None => drop(self.rows.remove(&id)),
            }
        }
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.iter().filter_map(|record| record.due()).min()
    }
}
