//! The front door: who calls, may it pass, how often, and where to. It knows no accounts and no database.

pub mod client_ip;
