//! Cuts a list of commands down to the fewest that still show a difference.

/// Leaves out ever smaller parts as long as `shows` holds for what is left.
pub fn shrink<T: Clone>(mut items: Vec<T>, mut shows: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut size = items.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < items.len() {
            let mut fewer = items.clone();
            fewer.drain(at..(at + size).min(items.len()));
            match shows(&fewer) {
                true => items = fewer,
                false => at += size,
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    items
}

#[cfg(test)]
mod tests {
    use super::shrink;

    #[test]
    fn what_matters_is_left() {
        let left = shrink((0..1000).collect(), |items| items.contains(&17) && items.contains(&903));
        assert_eq!(left, [17, 903]);
    }
}
