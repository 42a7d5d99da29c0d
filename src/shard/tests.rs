//! Tests of the shard as a whole: commands through the encoding, pages through the query.

mod support;
mod sessions;
mod claims;
mod queues;
mod quotas;
mod retained;
mod shares;
mod groups;
mod leads;
mod against_model;
mod wills;
