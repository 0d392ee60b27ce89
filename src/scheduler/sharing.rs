//! What the driver does for that which sessions share: requests in, answers out, and results kept for as long
//! as something that is shared refers to them. What the requests mean is decided in `shared`.

use super::core::event::Event;
use super::driver::Driver;
use super::input::ClientOrder;
use super::requests::SMALL_MESSAGE_BYTES;
use super::shared;
use crate::base::ids::{ClientId, RunUuid, TaskRef};
use crate::protocol::messages::client::ToClient;
use crate::protocol::messages::share::{Outcome, Share, Shared};

/// Who wants results for the sake of what is shared. No session has this number.
const BOARD: ClientId = ClientId(u32::MAX);

impl Driver {
    /// A client asks for something that sessions share.
    pub(super) fn take_share(&mut self, client: ClientId, share: Share) {
        if share.tasks.iter().any(|(run, i)| self.call(*run, *i).is_none()) {
            let why = "the value refers to a result that the scheduler does not know (any more)";
            let outcome = Outcome::Refused(why.into());
            return self.tell_shared(client, Shared { id: share.id, outcome, body: Default::default() });
        }
        self.share(shared::Event::Request { client, share });
    }

    /// Tells what is shared of an event, and does what comes of it.
    pub(super) fn share(&mut self, event: shared::Event) {
        let now = self.now();
        for action in self.board.handle(event, now) {
            match action {
                shared::Action::Answer { client, answer } => self.tell_shared(client, answer),
                shared::Action::KeepWanted { tasks } => {
                    let tasks = self.known_calls(&tasks);
                    self.events.push(Event::CallsWanted { client: BOARD, tasks });
                }
                shared::Action::LetGo { tasks } => {
                    let tasks = self.known_calls(&tasks);
                    self.events.push(Event::CallsReleased { client: BOARD, tasks, later: false });
                }
            }
        }
    }

    /// Those that were not forgotten, cancelled runs for instance.
    fn known_calls(&self, tasks: &[(RunUuid, u32)]) -> Vec<TaskRef> {
        tasks.iter().filter_map(|(run, i)| self.call(*run, *i)).collect()
    }

    fn tell_shared(&mut self, client: ClientId, answer: Shared) {
        let bytes = answer.body.len() + SMALL_MESSAGE_BYTES;
        self.order_client(client, ClientOrder::Message(ToClient::Shared(answer)), bytes);
    }
}
