//! Retpoline thunk shapes (under construction).
