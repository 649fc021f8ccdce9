//! Who this node is: written when an agent first sees it, and compared ever after.

use super::{Error, Post};
use crate::clock;
use crate::manifest::node::NodeDoc;
use crate::manifest::{self, Document};
use crate::node::NodeFacts;
use crate::vault::ObjectName;

/// zstd level.
const LEVEL: i32 = 3;

/// Refuses a server that is not the one the vault knows under this node's name.
pub(super) async fn admit(post: &Post, facts: &NodeFacts) -> Result<(), Error> {
    let name = ObjectName::Node { node: post.node.clone() };
    let Some(known) = post.vault.find(&name).await? else {
        let doc = NodeDoc {
            version: NodeDoc::VERSION,
            cluster: post.cluster.clone(),
            node: post.node.clone(),
            group: facts.group,
            system_identifier: facts.system_identifier.clone(),
            postgres_version: facts.server_version_num,
            segment_bytes: facts.segment_bytes,
            recorded_at: clock::now(),
        };
        tracing::info!(node = %post.node, system = %doc.system_identifier, "first sight of this node");
        post.vault.put(&name, manifest::to_bytes(&doc).into(), LEVEL).await?;
        return Ok(());
    };
    let known: NodeDoc = manifest::from_bytes(&known)?;
    if known.system_identifier != facts.system_identifier {
        let (known, found) = (known.system_identifier, facts.system_identifier.clone());
        return Err(Error::OtherServer { node: post.node.clone(), known, found });
    }
    Ok(())
}
