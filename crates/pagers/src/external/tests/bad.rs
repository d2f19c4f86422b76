//! Pagers that stall, die, answer twice, answer nonsense (Z115, Z116, Z121).

use super::*;

/// A pager played by `play`, on a thread of its own.
fn played(timeout: Duration, reconnect: bool, play: impl FnOnce(&OwnedFd) + Send, test: impl FnOnce(Client)) {
    let socket = Socket::new();
    let listener = socket.listen();
    std::thread::scope(|s| {
        let pager = s.spawn(move || play(&listener));
        let client = Client::connect(socket.path(), options(timeout, reconnect)).expect("connect");
        test(client);
        pager.join().expect("the pager's part");
    });
}

#[test]
fn z116_a_pager_that_never_answers_costs_a_deadline() {
    let play = |listener: &OwnedFd| {
        let raw = Raw::accept(listener);
        let first = raw.ready().expect("a request");
        // The second request comes when the first has failed; only now both are answered.
        let second = raw.ready().expect("a request");
        raw.supply(&first);
        raw.supply(&second);
        while raw.next().is_some() {}
    };
    played(SHORT, false, play, |client| {
        let object = client.open(b"x").expect("opens").object;
        let begun = Instant::now();
        assert_eq!(page_in(&object, 1, 0).0.1, Err(PagerError::Io));
        assert!(begun.elapsed() >= SHORT);
        // The slot of the first is not used before its answer has come.
        assert_eq!(client.stats().pending, 1);
        let second = page_in(&object, 1, PAGE_SIZE);
        if second.0.1 == Ok(Supply::Clean) {
            assert!(second.1[..PAGE] == content(PAGE_SIZE), "the late answer is not taken for this one");
        }
        until("late answers", || client.stats().pending == 0);
        assert!(client.stats().late >= 1);
    });
}

#[test]
fn z121_after_an_error_it_is_asked_again() {
    let play = |listener: &OwnedFd| {
        let raw = Raw::accept(listener);
        let m = raw.ready().expect("a request");
        let range = Message { offset: m.offset, size: m.size, ..m.answer(Kind::DataError, Status::Error) };
        raw.send(&range);
        raw.supply(&raw.ready().expect("a request"));
        while raw.next().is_some() {}
    };
    played(NEVER, false, play, |client| {
        let object = client.open(b"x").expect("opens").object;
        assert_eq!(page_in(&object, 1, 0).0.1, Err(PagerError::Io));
        assert_eq!(page_in(&object, 1, 0).0.1, Ok(Supply::Clean));
    });
}

#[test]
fn second_answers_and_unknown_numbers_are_ignored() {
    let play = |listener: &OwnedFd| {
        let raw = Raw::accept(listener);
        for _ in 0..10 {
            let m = raw.ready().expect("a request");
            raw.send(&Message { id: m.id + (1 << 40), ..raw.supply_of(&m) });
            raw.send(&Message { id: u64::MAX, ..raw.supply_of(&m) });
            raw.supply(&m);
            raw.send(&raw.supply_of(&m));
            raw.send(&m.answer(Kind::ReturnCompleted, Status::Success));
        }
        while raw.next().is_some() {}
    };
    played(NEVER, false, play, |client| {
        let object = client.open(b"x").expect("opens").object;
        for i in 0..10 {
            let (done, data) = page_in(&object, 2, i * PAGE_SIZE);
            assert_eq!(done.1, Ok(Supply::Clean));
            assert!(data[..PAGE] == content(i * PAGE_SIZE), "request {i}");
        }
        until("the stray ones", || client.stats().stray == 40);
        assert!(client.is_connected());
    });
}

#[test]
fn answers_for_another_object_or_range_are_errors_of_that_request() {
    let play = |listener: &OwnedFd| {
        let raw = Raw::accept(listener);
        for i in 0..6 {
            let m = raw.ready().expect("a request");
            let good = raw.supply_of(&m);
            raw.send(&match i {
                0 => Message { object: m.object + 1, ..good },
                1 => Message { offset: m.offset + PAGE_SIZE, ..good },
                2 => Message { size: m.size + PAGE_SIZE, ..good },
                3 => Message { place: m.place + PAGE_SIZE, ..good },
                4 => m.answer(Kind::ReturnCompleted, Status::Success),
                _ => Message { size: 5, access: 7, ..m.answer(Kind::Ready, Status::Success) },
            });
        }
        raw.supply(&raw.ready().expect("a request"));
        while raw.next().is_some() {}
    };
    played(NEVER, false, play, |client| {
        let object = client.open(b"x").expect("opens").object;
        for _ in 0..6 {
            assert_eq!(page_in(&object, 2, 0).0.1, Err(PagerError::Io));
        }
        assert_eq!(page_in(&object, 2, 0).0.1, Ok(Supply::Clean), "the connection is well");
        assert_eq!(client.stats().misfits, 6);
    });
}

#[test]
fn garbage_ends_the_connection_and_its_requests() {
    type Say = &'static (dyn Fn(&Raw, &Message) + Sync);
    fn bytes(raw: &Raw, bytes: &[u8]) {
        rustix::net::send(raw.link.fd(), bytes, rustix::net::SendFlags::NOSIGNAL).expect("send");
    }
    let sending: [Say; 5] = [
        &|raw, _| bytes(raw, &[0xff; 64]),
        &|raw, _| bytes(raw, b"hello"),
        &|raw, _| bytes(raw, &[1; 4000]),
        // A message of the kernel's; a welcome too many; data in the kernel's part.
        &|raw, m| raw.send(m),
        &|raw, m| raw.send(&Message { id: 0, place: 0, ..raw.supply_of(m) }),
    ];
    for (i, send) in sending.into_iter().enumerate() {
        let play = |listener: &OwnedFd| {
            let raw = Raw::accept(listener);
            let m = raw.ready().expect("a request");
            send(&raw, &m);
            while raw.next().is_some() {}
        };
        played(NEVER, false, play, |client| {
            let object = client.open(b"x").expect("opens").object;
            assert_eq!(page_in(&object, 1, 0).0.1, Err(PagerError::Gone), "case {i}");
            assert_eq!((client.is_connected(), client.stats().garbage), (false, 1), "case {i}");
            assert_eq!(object.page_out(0, &[1; PAGE]), Err(PagerError::Gone));
        });
    }
}

#[test]
fn a_pager_that_dies_ends_every_wait() {
    let play = |listener: &OwnedFd| {
        let raw = Raw::accept(listener);
        let mut seen = usize::from(raw.ready().is_some());
        while seen < 8 {
            seen += usize::from(raw.next().is_some());
        }
    };
    played(NEVER, false, play, |client| {
        let object = client.open(b"x").expect("opens").object;
        std::thread::scope(|s| {
            for i in 0..8 {
                let object = &object;
                s.spawn(move || {
                    let error = if i % 2 == 0 {
                        page_in(object, 1, i * PAGE_SIZE).0.1.expect_err("an error")
                    } else {
                        object.page_out(i * PAGE_SIZE, &[0; PAGE]).expect_err("an error")
                    };
                    assert_eq!(error, PagerError::Gone);
                });
            }
        });
        assert_eq!(client.stats().pending, 0);
        assert_eq!(client.open(b"y").expect_err("no connection"), OpenError::Gone);
    });
}

#[test]
fn requests_wait_for_a_pager_that_comes_again() {
    let play = |listener: &OwnedFd| {
        // It dies with a request, and again at the next one's init.
        let raw = Raw::accept(listener);
        let lost = raw.ready().expect("a request");
        drop(raw);
        let raw = Raw::accept(listener);
        assert_eq!(raw.next().expect("the object is named again").kind, Kind::Init);
        drop(raw);
        let raw = Raw::accept(listener);
        let m = raw.ready().expect("the request, again");
        assert_eq!((m.kind, m.object, m.offset), (lost.kind, lost.object, lost.offset));
        raw.supply(&m);
        while raw.next().is_some() {}
    };
    played(NEVER, true, play, |client| {
        let object = client.open(b"x").expect("opens").object;
        let (done, data) = page_in(&object, 3, 7 * PAGE_SIZE);
        assert_eq!(done.1, Ok(Supply::Clean));
        assert!(data[..PAGE] == content(7 * PAGE_SIZE));
        assert_eq!(client.stats().connections, 2);
    });
}

#[test]
fn a_pager_that_stays_away_costs_a_deadline() {
    let socket = Socket::new();
    let listener = socket.listen();
    std::thread::scope(|s| {
        s.spawn(move || {
            let raw = Raw::accept(&listener);
            drop((raw.ready(), raw, listener));
        });
        let client = Client::connect(socket.path(), options(SHORT, true)).expect("connect");
        let object = client.open(b"x").expect("opens").object;
        assert_eq!(page_in(&object, 1, 0).0.1, Err(PagerError::Io));
        // All the others together do not wait for another deadline.
        let begun = Instant::now();
        for _ in 0..1000 {
            assert_eq!(page_in(&object, 1, 0).0.1, Err(PagerError::Io));
        }
        assert!(begun.elapsed() < 100 * SHORT);
    });
}

#[test]
fn who_does_not_speak_the_protocol_is_not_connected_to() {
    let answers: [Message; 3] = [
        Message { object: MAGIC, how: VERSION + 1, ..Message::new(Kind::Welcome) },
        Message { object: 5, how: VERSION, ..Message::new(Kind::Welcome) },
        Message::about(Kind::Destroy, 1),
    ];
    for answer in answers {
        let socket = Socket::new();
        let listener = socket.listen();
        std::thread::scope(|s| {
            s.spawn(move || {
                let raw = Link::new(rustix::net::accept(&listener).expect("accept"));
                raw.send(&answer, Instant::now() + NEVER).expect("send");
            });
            assert!(Client::connect(socket.path(), options(NEVER, true)).is_err(), "{answer:?}");
        });
    }
    assert!(Client::connect(Socket::new().path(), options(NEVER, true)).is_err(), "nobody listens");
}

#[test]
fn a_server_survives_kernels_that_send_nonsense() {
    let server = Running::start();
    let client = server.client();
    let object = client.open(b"data").expect("opens").object;
    let seed: u64 = 0x5eed_0002;
    let mut r = seed;
    let mut random = || {
        r ^= r << 13;
        r ^= r >> 7;
        r ^= r << 17;
        r
    };
    for round in 0..60 {
        let link = Link::connect(server.socket.path()).expect("connect");
        let ring = Ring::new().expect("ring");
        let hello = Message {
            object: MAGIC,
            offset: PAGE_SIZE,
            size: ring.size(),
            place: ring.pagers(),
            how: VERSION,
            extra: wire::CLUSTER,
            ..Message::new(Kind::Hello)
        };
        if round % 3 != 0 {
            link.send_with(&hello, ring.fd(), Instant::now() + NEVER).expect("send");
        }
        for _ in 0..20 {
            let kind = Kind::ALL[random() as usize % Kind::ALL.len()];
            let mut bytes = Message {
                id: random() % 4,
                size: PAGE_SIZE * (random() % 3),
                place: random() & 0x7f_f000,
                ..Message::about(kind, random() % 3)
            }
            .encode();
            for _ in 0..random() % 3 {
                bytes[random() as usize % 64] = random() as u8;
            }
            // The server may have hung up.
            let _ = rustix::net::send(link.fd(), &bytes, rustix::net::SendFlags::NOSIGNAL);
        }
        assert_eq!(page_in(&object, 1, 0).0.1, Ok(Supply::Clean), "seed {seed:#x} round {round}");
    }
}
