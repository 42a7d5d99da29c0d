//! Notices panics: tokio swallows those of tasks, and openraft ends a group for one without more words.
//!
//! - Owns: per thread, the message of the last panic. Takes: panics of worlds on this thread.
//! - Gives: the message, once.
//! - Source: own design.

use std::{
    cell::RefCell,
    panic::{self, PanicHookInfo},
    sync::Once,
};

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Begins to notice panics of threads that run worlds; others print as ever.
pub(super) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if crate::runtime::is_driven() {
                LAST.with(|last| *last.borrow_mut() = Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
    taken();
}

/// Returns the message of a panic since the last call.
pub(super) fn taken() -> Option<String> {
    LAST.with(|last| last.borrow_mut().take())
}
