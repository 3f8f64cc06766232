//! Nodes by number, in chunks: growth never moves more than one chunk, and a number is half the size of a pointer.

/// Nodes addressed by `u32`; freed numbers are used again.
#[derive(Clone, Default)]
pub struct Arena<T> {
    chunks: Vec<Vec<T>>,
    free: Vec<u32>,
}

/// Nodes per chunk: a choice; a chunk of leaves is 2 KiB, one of inner nodes 6 KiB.
const CHUNK: usize = 256;

impl<T: Default> Arena<T> {
    /// Stores a node and returns its number.
    pub fn add(&mut self, node: T) -> u32 {
        if let Some(id) = self.free.pop() {
            *self.get_mut(id) = node;
            return id;
        }
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(node),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(node);
                self.chunks.push(chunk);
            }
            None => self.chunks.push(vec![node]),
        }
        let last = self.chunks.len() - 1;
        u32::try_from(last * CHUNK + self.chunks[last].len() - 1).expect("fewer than 2^32 nodes")
    }

    /// Takes a node out; its number may be given out again.
    pub fn remove(&mut self, id: u32) -> T {
        self.free.push(id);
        std::mem::take(self.get_mut(id))
    }

    /// The node with this number.
    pub fn get(&self, id: u32) -> &T {
        &self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }

    /// The node with this number, or with one that was given out once.
    pub fn get_if(&self, id: u32) -> Option<&T> {
        self.chunks.get(id as usize / CHUNK)?.get(id as usize % CHUNK)
    }

    /// The node with this number, to change.
    pub fn get_mut(&mut self, id: u32) -> &mut T {
        &mut self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }

    /// Nodes in use.
    pub fn live(&self) -> usize {
        let made = self.chunks.last().map_or(0, |c| (self.chunks.len() - 1) * CHUNK + c.len());
        made - self.free.len()
    }

    /// Bytes allocated, without what the nodes themselves allocate.
    pub fn heap_bytes(&self) -> usize {
        let nodes = match self.chunks.len() {
            0 => 0,
            1 => self.chunks[0].capacity(),
            many => many * CHUNK,
        };
        nodes * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>() + self.free.capacity() * 4
    }
}
