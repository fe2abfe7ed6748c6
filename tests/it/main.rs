//! One integration binary: the product through its public interface, on both databases.

mod account;
mod app;
mod attacks;
mod contract;
mod downstream;
mod flow;
mod gate;
mod origin;
mod process;
mod proof;
mod proxy;
