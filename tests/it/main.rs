//! One integration binary: the product through its public interface, on both databases.

mod account;
mod app;
mod attacks;
mod contract;
mod flow;
mod origin;
mod process;
mod proof;
