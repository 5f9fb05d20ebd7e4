//! Owns what people and programs are shown: pure functions from books and incidents to the answers of the HTTP API, the
//! command line and the page. Never reads a clock, never changes the books. Called by the HTTP routes.

pub mod views;
