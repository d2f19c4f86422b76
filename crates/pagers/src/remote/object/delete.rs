//! The end of an object.

use std::sync::Arc;

use super::super::engine::Engine;
use super::{ObjectError, ObjectOptions, RemoteObject, Shared, base};

impl RemoteObject {
    /// Deletes an object with its snapshots, when nobody writes it any more. If this is
    /// interrupted nobody can use the object, and it is to be deleted again.
    ///
    /// # Errors
    /// As [`RemoteObject::open`].
    pub fn delete(engine: &Arc<Engine>, name: &str, options: ObjectOptions) -> Result<(), ObjectError> {
        engine.wait(async {
            let object = RemoteObject::open_as(engine, name, options, true).await?;
            object.shared.delete().await?;
            // Its lease is gone: there is nothing to give up.
            object.shared.lose(ObjectError::Unknown(name.to_owned()));
            if let Some(renewer) = object.renewer.lock().ok().and_then(|mut r| r.take()) {
                renewer.abort();
            }
            Ok(())
        })
    }
}

impl Shared {
    async fn delete(&self) -> Result<(), ObjectError> {
        let mut store = self.store.lock().await;
        self.commit_with(&mut store, |head| head.deleted = true).await?;
        let snapshots = self.snapshot_heads(&store.head).await?;
        let mut names = self.names(&store.head).await?;
        let mut keys = Vec::new();
        for (key, head) in snapshots {
            keys.push(key);
            if let Some(head) = head {
                names.extend(self.names(&head).await?);
            }
        }
        keys.extend(names.iter().map(|n| self.key_of(*n)));
        // What a writer left that lost his lease, where the engine can tell.
        let base = base(&self.name);
        if let Some(all) = self.engine.list(&format!("{base}/")).await? {
            let last = [format!("{base}/head"), format!("{base}/lease")];
            keys.extend(all.into_iter().filter(|k| !last.contains(k)));
        }
        self.engine.delete(&keys).await?;
        Ok(self.engine.delete(&[format!("{base}/head"), format!("{base}/lease")]).await?)
    }
}
