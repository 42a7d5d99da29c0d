//! Apps: their names and numbers.
//!
//! - Bound: numbers are dense from 1 and never given again.

use super::{Entry, State};
use crate::{
    model::id::AppId,
    shard::{
        command::Reply,
        key,
        record::{AppRecord, Record as _},
    },
};

impl State {
    pub(super) fn create_app(&mut self, entry: &mut Entry<'_>, name: &str) -> Reply {
        if let Some(AppRecord(app)) = super::read(&*entry.store, &key::app_by_name(name)) {
            return Reply::App(app);
        }
        self.numbers.apps += 1;
        let app = AppId(self.numbers.apps);
        entry.store.put(key::numbers(), self.numbers.to_bytes());
        entry.store.put(key::app_by_name(name), AppRecord(app).to_bytes());
        entry.store.put(key::app(app), bytes::Bytes::copy_from_slice(name.as_bytes()));
        Reply::App(app)
    }
}
