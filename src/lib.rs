//! The CargoExtra Gateway: a front door with the customer accounts inside it.
//!
//! # The life of a request
//! [`web::server`] accepts a connection and reads a request; [`web::Front::answer`] is the stack that it passes, top to bottom: who calls
//! ([`gateway`]), may it pass, whose call is it. Our own calls are read in `web::user` and answered by a flow in [`accounts`]; what a flow
//! changes is in [`store`], with the mail it causes in the same transaction; [`mail::worker`] sends it after the commit.
//!
//! Modules in reading order: [`web`], [`gateway`], [`accounts`], [`store`], [`mail`], then what they stand on.

pub mod web;

pub mod gateway;

pub mod accounts;

pub mod store;

pub mod mail;

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cores;
pub mod error;
pub mod hash;
pub mod keys;
pub mod metrics;
pub mod private;
pub mod random;
pub mod telemetry;
pub mod token;
