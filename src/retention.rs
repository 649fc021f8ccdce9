//! What may be deleted: returns a list, deletes nothing.
