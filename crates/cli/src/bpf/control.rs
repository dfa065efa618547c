//! The socket through which a run that is going on is changed.
//!
//! A connection carries one request, lines of text, and one reply. The first line names the array; each further
//! one is `INDEX`, to empty a slot, or `INDEX FILE PROGRAM`, separated by tabs. The server loads the files
//! itself; their maps of the same name as the running object's are those. All slots change at once for every
//! packet. The socket is for its user alone (mode 0600).

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relpoline_bpf::{MapHandle, Object, Options, ProgArray, Program, Runtime};

/// Most bytes of a request.
const LONGEST: u64 = 1 << 20;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket's file, removed in the end.
#[derive(Debug)]
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A server at work; it ends with the process, and its socket's file with this value.
#[derive(Debug)]
pub struct Control {
    _socket: Socket,
    newcomers: Arc<Mutex<Newcomers>>,
}

impl Control {
    /// How often programs that came by requests were started: those in use, and those that have gone again.
    pub fn starts(&self) -> Vec<(String, u64)> {
        let newcomers = lock(&self.newcomers);
        let here = newcomers.loaded.iter().flat_map(|(file, object)| starts(file, object));
        newcomers.gone.iter().cloned().chain(here).collect()
    }
}

/// Objects that requests brought.
#[derive(Debug, Default)]
struct Newcomers {
    /// Those whose programs are in use. They are kept since their other arrays would empty.
    loaded: Vec<(PathBuf, Object)>,
    /// What the others counted.
    gone: Vec<(String, u64)>,
}

fn lock(newcomers: &Mutex<Newcomers>) -> MutexGuard<'_, Newcomers> {
    newcomers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What ran, of an object.
fn starts(file: &Path, object: &Object) -> Vec<(String, u64)> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let one = |program: &Program| Some((format!("{name}:{}", program.name()), program.hits().filter(|n| *n > 0)?));
    object.programs().iter().filter_map(one).collect()
}

/// What requests refer to.
struct Server {
    runtime: Runtime,
    object: Object,
    options: Options,
    newcomers: Arc<Mutex<Newcomers>>,
}

/// Serves requests at `path` in a thread of its own.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(path: &Path, runtime: Runtime, object: Object, options: Options) -> Result<Control> {
    remove_stale(path);
    // Made under another name first: under its own it appears with its mode, and accepts.
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = Socket(draft.into());
    let listener = UnixListener::bind(&draft.0).with_context(|| format!("cannot listen at {}", path.display()))?;
    std::fs::set_permissions(&draft.0, std::fs::Permissions::from_mode(0o600))?;
    std::fs::hard_link(&draft.0, path).with_context(|| format!("cannot listen at {}", path.display()))?;
    let socket = Socket(path.to_path_buf());
    let newcomers = Arc::default();
    let server = Server { runtime, object, options, newcomers: Arc::clone(&newcomers) };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Err(error) = server.serve(&stream) {
                // The client may be gone; the run goes on.
                let _ = writeln!(&stream, "error {error:#}");
            }
            server.forget_unused();
        }
    });
    Ok(Control { _socket: socket, newcomers })
}

/// Removes what a run left behind that was killed.
fn remove_stale(path: &Path) {
    if UnixStream::connect(path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
        // Should it fail, listening will say why.
        let _ = std::fs::remove_file(path);
    }
}

impl Server {
    fn serve(&self, stream: &UnixStream) -> Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut lines = BufReader::new(stream.take(LONGEST)).lines();
        let array = lines.next().context("an empty request")??;
        let mut changes = Vec::new();
        for line in lines {
            changes.push(self.change(&line?)?);
        }
        let array = self.object.array(&array).with_context(|| format!("no program array '{array}'"))?;
        let begin = Instant::now();
        array.swap(changes.iter().map(|(index, program)| (*index, program.as_ref())))?;
        writeln!(&*stream, "ok {:.1} µs", begin.elapsed().as_nanos() as f64 / 1000.0)?;
        Ok(())
    }

    /// Lets go of objects none of whose programs a run can come to any more.
    fn forget_unused(&self) {
        // Runs that began before the change still come through the old programs, and count.
        self.runtime.quiesce();
        let mut newcomers = lock(&self.newcomers);
        let mut unused = std::mem::take(&mut newcomers.loaded);
        let mut arrays = arrays(&self.object);
        // Arrays of objects in use lead to further ones.
        while let Some(at) = unused.iter().position(|(_, object)| is_used(object, &arrays)) {
            let (file, object) = unused.remove(at);
            arrays.extend(self::arrays(&object));
            newcomers.loaded.push((file, object));
        }
        newcomers.gone.extend(unused.iter().flat_map(|(file, object)| starts(file, object)));
    }

    fn change(&self, line: &str) -> Result<(u32, Option<Program>)> {
        let mut fields = line.split('\t');
        let index = fields.next().unwrap_or("").parse().context("a slot's number is expected")?;
        let program = match (fields.next(), fields.next()) {
            (Some(file), Some(name)) => Some(self.program(Path::new(file), name)?),
            _ => None,
        };
        Ok((index, program))
    }

    fn program(&self, file: &Path, name: &str) -> Result<Program> {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let object = Object::load_sharing(&self.runtime, &bytes, self.options, self.object.maps())
            .with_context(|| file.display().to_string())?;
        let program = super::choose(&object, Some(name))?.clone();
        lock(&self.newcomers).loaded.push((file.into(), object));
        Ok(program)
    }
}

fn arrays(object: &Object) -> Vec<ProgArray> {
    let array = |map: &MapHandle| if let MapHandle::Array(array) = map { Some(array.clone()) } else { None };
    object.maps().iter().filter_map(|(_, map)| array(map)).collect()
}

fn is_used(object: &Object, arrays: &[ProgArray]) -> bool {
    object.programs().iter().any(|program| arrays.iter().any(|array| array.contains(program)))
}

/// Sends a request: the server's reply.
///
/// # Errors
/// When it cannot be reached, or says so.
pub fn request(path: &Path, text: &str) -> Result<String> {
    let mut stream = UnixStream::connect(path).with_context(|| format!("no run listens at {}", path.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let reply = reply.trim_end();
    ensure!(reply.starts_with("ok"), "{}", reply.strip_prefix("error ").unwrap_or("the run ended"));
    Ok(reply.into())
}
