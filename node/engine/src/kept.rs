//! What a worker keeps between commands and lends to the one that runs: only a pointer moves.

use std::ops::{Deref, DerefMut};

/// A value that is here or lent. Using one that is lent is a programmer's error.
#[derive(Debug)]
pub struct Kept<T>(Option<Box<T>>);

impl<T> Kept<T> {
    pub fn new(value: T) -> Kept<T> {
        Kept(Some(Box::new(value)))
    }
    /// Takes the value out, to be put back by assignment.
    #[inline]
    pub fn lend(&mut self) -> Kept<T> {
        Kept(self.0.take())
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is lent")
    }
}

impl<T> DerefMut for Kept<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is lent")
    }
}
