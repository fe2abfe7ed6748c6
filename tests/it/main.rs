//! One integration binary: the product through its public interface, on both databases.

mod account;
mod app;
mod attacks;
mod bans;
mod browser;
mod cli;
mod contract;
mod country;
mod docs;
mod downstream;
mod flow;
mod grpc;
mod gate;
mod mail;
mod mmdb;
mod observing;
mod origin;
mod pages;
mod process;
mod proof;
mod proxy;
mod reload;
mod restart;
mod tracing;
mod upstreams;
