//! The wire between Hearth's host and its guest agent.
