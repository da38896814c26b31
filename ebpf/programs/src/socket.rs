//! Storage and ends of sockets, from every kind of program.
//!
//! aya's own methods take the context of one kind of program; the helper takes any socket.

use core::{mem::offset_of, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::SkStorage,
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
};

use martlet_ebpf_shared::Connection;

use crate::{
    context::{load, load_v6},
    maps::InheritedSkStorage,
};

const LOCAL_PORT: usize = offset_of!(bpf_sock, src_port);
const REMOTE_PORT: usize = offset_of!(bpf_sock, dst_port);
const LOCAL_V4: usize = offset_of!(bpf_sock, src_ip4);
const REMOTE_V4: usize = offset_of!(bpf_sock, dst_ip4);
const LOCAL_V6: usize = offset_of!(bpf_sock, src_ip6);
const REMOTE_V6: usize = offset_of!(bpf_sock, dst_ip6);

/// A socket that the verifier knows to be there.
#[derive(Clone, Copy)]
pub struct Socket(*mut core::ffi::c_void);

/// No memory for socket storage.
pub struct NoMemory;

impl Socket {
    /// `None` where there is no socket. One that is not a full one has no storage.
    #[inline(always)]
    pub fn new<T>(socket: *mut T) -> Option<Self> {
        match socket.is_null() {
            true => None,
            false => Some(Self(socket.cast())),
        }
    }

    /// Whether it is bound and connected to a connection's addresses and ports.
    #[inline(always)]
    pub fn has_ends_of(self, connection: &Connection) -> bool {
        let Connection { local, remote, local_port, remote_port, .. } = *connection;
        // In the host's order, and in the network's in the lower half of the word.
        let ports = (load!(self.0, LOCAL_PORT) as u16, load!(self.0, REMOTE_PORT) as u16);
        if ports != (local_port, remote_port.to_be()) {
            return false;
        }
        match (local.as_v4(), remote.as_v4()) {
            (Some(local), Some(remote)) => {
                (load!(self.0, LOCAL_V4), load!(self.0, REMOTE_V4)) == (local, remote)
            }
            _ => load_v6!(self.0, LOCAL_V6) == local && load_v6!(self.0, REMOTE_V6) == remote,
        }
    }

    #[inline(always)]
    pub fn read<T: Copy>(self, storage: &'static impl Storage<T>) -> Option<T> {
        // SAFETY: the map is a socket storage and the socket comes from the context.
        let value = unsafe { bpf_sk_storage_get(map(storage), self.0, ptr::null_mut(), 0) };
        // SAFETY: the helper returns null or a pointer to the map's value.
        (!value.is_null()).then(|| unsafe { *value.cast::<T>() })
    }

    /// The value in place; null if there is none.
    #[inline(always)]
    pub fn find<T>(self, storage: &'static impl Storage<T>) -> *mut T {
        // SAFETY: as in `read`.
        unsafe { bpf_sk_storage_get(map(storage), self.0, ptr::null_mut(), 0) }.cast()
    }

    #[inline(always)]
    pub fn write<T: Copy>(
        self,
        storage: &'static impl Storage<T>,
        value: &T,
    ) -> Result<(), NoMemory> {
        let initial = ptr::from_ref(value).cast_mut().cast();
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: as in `read`; the initial value has the map's value type.
        let stored = unsafe { bpf_sk_storage_get(map(storage), self.0, initial, create) };
        if stored.is_null() {
            return Err(NoMemory);
        }
        // The initial value is used only if there was none.
        // SAFETY: the helper returned a pointer to the map's value.
        unsafe { *stored.cast::<T>() = *value };
        Ok(())
    }

    /// Looks first: to delete, the kernel takes a reference of the socket, also where there is nothing.
    #[inline(always)]
    pub fn forget<T>(self, storage: &'static impl Storage<T>) {
        if self.find(storage).is_null() {
            return;
        }
        // SAFETY: as in `read`; that somebody else has deleted it meanwhile is no error here.
        let _ = unsafe { bpf_sk_storage_delete(map(storage), self.0) };
    }
}

/// A map of socket storage.
pub trait Storage<T> {}

impl<T> Storage<T> for SkStorage<T> {}
impl<T> Storage<T> for InheritedSkStorage<T> {}

#[inline(always)]
fn map<T>(storage: &'static impl Storage<T>) -> *mut core::ffi::c_void {
    ptr::from_ref(storage).cast_mut().cast()
}
