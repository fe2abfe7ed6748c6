//! One integration binary: the product through its public interface, on both databases.

mod account;
mod app;
mod attacks;
mod browser;
mod cli;
mod connections;
mod contract;
mod docs;
mod downstream;
mod drain;
mod flow;
mod gate;
mod http2;
mod mail;
mod origin;
mod pages;
mod process;
mod proof;
mod proxied;
mod proxy;
mod tls;
