// Files, descriptors and agents (user-space processes).
//
//   agent "main": fd 3 -> File (refcount 2) <- LUO keeps a reference
//
// A File is one open file description. Descriptors are per agent, lowest free number first, with FD_CLOEXEC. When the
// last reference goes, release() runs, once. An agent that is killed closes all its descriptors, then is gone.
//
//   who drops a reference                     what runs release()
//   close, death of an agent, Vfs::put()      the drop itself, if it was the last; errors of release() pass up
//   anybody else (a handler, an exception)    the deleter that Vfs::make_file() gives its files
//   the end of the kernel (destroy_all)       nothing: memory and files of a kernel that is gone are not taken apart
//
// Files of std::make_shared are released by the first row only.
// Simplified: no threads, no inheritance by fork; an agent has a name, descriptors and the device it opened.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "machine/machine.hpp"

namespace kexec_sim {

class Kernel;

/// An ioctl argument in the caller's memory. copy_in and copy_out fault (EFAULT) beyond its size and then copy nothing.
class UserBuffer {
public:
    explicit UserBuffer(std::span<std::byte> bytes) : bytes_(bytes) {}
    Result<> copy_in(u64 offset, std::span<std::byte> out) const;
    Result<> copy_out(u64 offset, std::span<const std::byte> in);
    u64 size() const { return bytes_.size(); }

private:
    std::span<std::byte> bytes_;
};

class Agent;

class File {
public:
    explicit File(u64 id) : id_(id) {}
    virtual ~File() = default;
    u64 id() const { return id_; }
    /// "memfd", "liveupdate": what kind of file.
    virtual std::string_view kind() const = 0;
    /// Last reference dropped, on behalf of a close or a death. Called through release_once().
    virtual void release() {}
    /// release(), unless it ran before.
    void release_once();
    virtual Result<i64> ioctl(Agent& caller, u32 request, UserBuffer& argument);  // default ENOTTY

private:
    u64 id_;
    bool released_ = false;
};
using FileRef = std::shared_ptr<File>;

struct Descriptor {
    FileRef file;
    bool cloexec = false;
};

/// Descriptors of a process: numbers 0 to 1023 (RLIMIT_NOFILE), of which 0 to 2 are taken by its terminal.
inline constexpr i32 first_descriptor = 3, descriptors_max = 1024;
/// open(2)'s flag for FD_CLOEXEC.
inline constexpr u32 O_CLOEXEC_BIT = 0x80000;

class Agent {
public:
    Agent(Kernel& kernel, std::string name) : kernel_(kernel), name_(std::move(name)) {}
    const std::string& name() const { return name_; }
    bool alive() const { return alive_; }
    /// get_unused_fd_flags(): the number that install() would take. EMFILE; ESRCH: the agent is dead.
    Result<i32> free_descriptor() const;
    /// Lowest free number from 3. EMFILE at 1024 descriptors.
    Result<i32> install(FileRef file, bool cloexec);
    Result<FileRef> get(i32 fd) const;       // EBADF
    Result<Descriptor*> descriptor(i32 fd);  // EBADF
    Result<> close(i32 fd);                  // EBADF
    void kill();                             // closes everything, ascending; idempotent
    /// The kernel is gone: descriptors are forgotten, nothing is closed.
    void abandon();
    std::vector<i32> open_fds() const;

private:
    Kernel& kernel_;
    std::string name_;
    bool alive_ = true;
    std::map<i32, Descriptor> descriptors_;
};

class Vfs {
public:
    explicit Vfs(Kernel& kernel) : kernel_(kernel) {}
    ~Vfs() { destroy_all(); }
    Vfs(const Vfs&) = delete;
    Vfs& operator=(const Vfs&) = delete;
    u64 next_file_id() { return next_file_id_++; }
    /// A tracked file that is released however its last reference goes.
    template <typename T, typename... Args> std::shared_ptr<T> make_file(Args&&... args) {
        auto deleter = [alive = std::weak_ptr<Vfs*>(self_)](T* file) { dispose(alive, file); };
        std::shared_ptr<T> file(new T(std::forward<Args>(args)...), std::move(deleter));
        track(file);
        return file;
    }
    /// fput(): drops this reference; the last one releases the file.
    void put(FileRef file);
    using Opener = std::function<Result<FileRef>(Agent&, u32 flags)>;
    void register_device(std::string path, Opener opener);
    Result<i32> open(Agent& agent, const std::string& path, u32 flags = 0);  // ENOENT
    Result<i64> ioctl(Agent& agent, i32 fd, u32 request, UserBuffer& argument);
    /// sysfs and debugfs: a path, a reader and perhaps a writer.
    struct PseudoFile {
        std::function<Result<std::string>()> read;
        std::function<Result<>(std::string_view)> write;  // empty: EACCES
    };
    void add_pseudo_file(std::string path, PseudoFile file);
    void remove_pseudo_file(const std::string& path);
    Result<std::string> read(const std::string& path) const;  // ENOENT
    Result<> write(const std::string& path, std::string_view content);
    std::vector<std::string> list(std::string_view prefix) const;
    /// An agent of that name that died is replaced (references to it end); one that lives is the answer.
    Agent& start_agent(const std::string& name);
    Agent* find_agent(const std::string& name);
    const std::map<std::string, std::unique_ptr<Agent>>& agents() const { return agents_; }
    /// The kernel is going: everything user space held is dropped without running release paths of the editions.
    void destroy_all();
    /// All living files by id, for the referee's file source.
    void track(const FileRef& file);
    FileRef find_file(u64 id) const;

private:
    static void dispose(const std::weak_ptr<Vfs*>& alive, File* file);

    Kernel& kernel_;
    /// Gone once destroy_all() ran; files that outlive this object look here.
    std::shared_ptr<Vfs*> self_ = std::make_shared<Vfs*>(this);
    u64 next_file_id_ = 1;
    std::map<std::string, Opener> devices_;
    std::map<std::string, PseudoFile> pseudo_files_;
    std::map<std::string, std::unique_ptr<Agent>> agents_;
    std::map<u64, std::weak_ptr<File>> files_;
};

}  // namespace kexec_sim
