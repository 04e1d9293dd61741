//! Work shared out to threads.

/// Applies `work` to every item on at most `threads` threads; results come in the order of the items.
pub(crate) fn parallel_map<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(usize, &T) -> R + Sync,
) -> Vec<R> {
    let share = items.len().div_ceil(threads.max(1)).max(1);
    if items.len() <= share {
        return items.iter().enumerate().map(|(i, item)| work(i, item)).collect();
    }
    std::thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = items
            .chunks(share)
            .enumerate()
            .map(|(c, chunk)| {
                scope.spawn(move || {
                    chunk.iter().enumerate().map(|(i, item)| work(c * share + i, item)).collect::<Vec<R>>()
                })
            })
            .collect();
        handles
            .into_iter()
            .flat_map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
