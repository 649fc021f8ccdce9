//! Names and catalogue rows that Citus gives to distributed transactions.
