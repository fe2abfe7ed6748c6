//! What took other systems, each as a test of ours. A test bears the id of its row; SECURITY.md lists all rows.

mod abuse;
mod budgets;
mod edge;
mod input;
mod leaks;
mod mails;
mod orders;
mod recovery;
mod sessions;
