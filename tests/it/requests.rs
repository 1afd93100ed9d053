//! Paths, methods, parameters and the reply's form (`http.md`).
