//! placeholder for the tests of credit
