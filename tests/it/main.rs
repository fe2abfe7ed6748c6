//! One integration binary: the product through its public interface, on both databases.

mod app;
mod attacks;
mod browser;
mod flow;
mod pages;
