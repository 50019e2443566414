// A conversation as a tree: each message has a parent, and an edit or a new answer is a branch.

// Returns the messages from the first one to `leaf`.
export function pathTo(messages, leaf) {
  const path = [];
  for (let at = messages.get(leaf); at && path.length < messages.size; at = messages.get(at.parent)) {
    path.unshift(at);
  }
  return path;
}

export function childrenOf(messages, parent) {
  return [...messages.values()].filter((message) => message.parent === parent)
    .sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
}

// Returns the other versions of a message, itself included, oldest first.
export function versionsOf(messages, message) {
  return childrenOf(messages, message.parent);
}

// Returns the end of the newest branch below a message.
export function newestLeaf(messages, id) {
  for (let children; (children = childrenOf(messages, id)).length; ) id = children.at(-1).id;
  return id;
}
