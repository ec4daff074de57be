#include "kernel-model/vfs.hpp"

#include <cstring>
#include <exception>

#include "kernel-model/kernel.hpp"

namespace kexec_sim {

// --- ioctl arguments ---

Result<> UserBuffer::copy_in(u64 offset, std::span<std::byte> out) const {
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) return fail(Errno::efault);
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
}

Result<> UserBuffer::copy_out(u64 offset, std::span<const std::byte> in) {
    if (offset > bytes_.size() || in.size() > bytes_.size() - offset) return fail(Errno::efault);
    if (!in.empty()) std::memcpy(bytes_.data() + offset, in.data(), in.size());
    return {};
}

// --- files ---

Result<i64> File::ioctl(Agent&, u32, UserBuffer&) { return fail(Errno::enotty); }

void File::release_once() {
    if (std::exchange(released_, true)) return;
    release();
}

// --- agents ---

Result<i32> Agent::free_descriptor() const {
    if (!alive_) return fail(Errno::esrch);
    i32 number = first_descriptor;
    for (const auto& [fd, descriptor] : descriptors_) {
        if (fd != number) break;
        ++number;
    }
    if (number >= descriptors_max) return fail(Errno::emfile);
    return number;
}

Result<i32> Agent::install(FileRef file, bool cloexec) {
    INVARIANT(file != nullptr);
    const i32 fd = TRY(free_descriptor());
    descriptors_.emplace(fd, Descriptor{std::move(file), cloexec});
    return fd;
}

Result<FileRef> Agent::get(i32 fd) const {
    const auto found = descriptors_.find(fd);
    if (found == descriptors_.end()) return fail(Errno::ebadf);
    return found->second.file;
}

Result<Descriptor*> Agent::descriptor(i32 fd) {
    const auto found = descriptors_.find(fd);
    if (found == descriptors_.end()) return fail(Errno::ebadf);
    return &found->second;
}

Result<> Agent::close(i32 fd) {
    const auto found = descriptors_.find(fd);
    if (found == descriptors_.end()) return fail(Errno::ebadf);
    FileRef file = std::move(found->second.file);
    descriptors_.erase(found);  // the number is free before release() runs
    kernel_.vfs.put(std::move(file));
    return {};
}

void Agent::kill() {
    if (!std::exchange(alive_, false)) return;
    kernel_.machine.trace.emit(Layer::kernel, "agent.kill", {{"agent", name_}});
    while (!descriptors_.empty()) {
        const auto closed = close(descriptors_.begin()->first);
        INVARIANT(closed.has_value());
    }
}

void Agent::abandon() {
    alive_ = false;
    descriptors_.clear();
}

std::vector<i32> Agent::open_fds() const {
    std::vector<i32> numbers;
    numbers.reserve(descriptors_.size());
    for (const auto& [fd, descriptor] : descriptors_) numbers.push_back(fd);
    return numbers;
}

// --- references ---

void Vfs::put(FileRef file) {
    if (!file || file.use_count() != 1) return;
    files_.erase(file->id());
    file->release_once();
}

void Vfs::dispose(const std::weak_ptr<Vfs*>& alive, File* file) {
    const std::unique_ptr<File> owner(file);
    const auto vfs = alive.lock();
    if (!vfs) return;
    // While an exception passes, the kernel (or the task that held the reference) is dying where it stands:
    // what it holds stays held.
    if (std::uncaught_exceptions() > 0) return;
    (*vfs)->files_.erase(file->id());
    file->release_once();
}

void Vfs::track(const FileRef& file) { files_[file->id()] = file; }

FileRef Vfs::find_file(u64 id) const {
    const auto found = files_.find(id);
    return found == files_.end() ? nullptr : found->second.lock();
}

void Vfs::destroy_all() {
    self_.reset();  // from here on no deleter releases
    for (const auto& [name, agent] : agents_) agent->abandon();
    files_.clear();
}

// --- devices ---

void Vfs::register_device(std::string path, Opener opener) { devices_[std::move(path)] = std::move(opener); }

Result<i32> Vfs::open(Agent& agent, const std::string& path, u32 flags) {
    TRY(agent.free_descriptor());  // before the device sees anything, as open(2) does
    const auto found = devices_.find(path);
    if (found == devices_.end()) return fail(Errno::enoent);
    FileRef file = TRY(found->second(agent, flags));
    track(file);
    return agent.install(std::move(file), (flags & O_CLOEXEC_BIT) != 0);
}

Result<i64> Vfs::ioctl(Agent& agent, i32 fd, u32 request, UserBuffer& argument) {
    FileRef file = TRY(agent.get(fd));
    auto result = file->ioctl(agent, request, argument);
    put(std::move(file));  // the last reference if the descriptor went during the call
    return result;
}

// --- pseudo files ---

void Vfs::add_pseudo_file(std::string path, PseudoFile file) { pseudo_files_[std::move(path)] = std::move(file); }

void Vfs::remove_pseudo_file(const std::string& path) { pseudo_files_.erase(path); }

Result<std::string> Vfs::read(const std::string& path) const {
    const auto found = pseudo_files_.find(path);
    if (found == pseudo_files_.end()) return fail(Errno::enoent);
    if (!found->second.read) return fail(Errno::eacces);
    return found->second.read();
}

Result<> Vfs::write(const std::string& path, std::string_view content) {
    const auto found = pseudo_files_.find(path);
    if (found == pseudo_files_.end()) return fail(Errno::enoent);
    if (!found->second.write) return fail(Errno::eacces);
    // A copy, since the writer may remove the file.
    const auto writer = found->second.write;
    return writer(content);
}

std::vector<std::string> Vfs::list(std::string_view prefix) const {
    std::vector<std::string> paths;
    for (auto at = pseudo_files_.lower_bound(std::string(prefix)); at != pseudo_files_.end(); ++at) {
        if (!at->first.starts_with(prefix)) break;
        paths.push_back(at->first);
    }
    return paths;
}

// --- processes ---

Agent& Vfs::start_agent(const std::string& name) {
    std::unique_ptr<Agent>& agent = agents_[name];
    if (agent && agent->alive()) return *agent;
    agent = std::make_unique<Agent>(kernel_, name);
    kernel_.machine.trace.emit(Layer::kernel, "agent.start", {{"agent", name}});
    return *agent;
}

Agent* Vfs::find_agent(const std::string& name) {
    const auto found = agents_.find(name);
    return found == agents_.end() ? nullptr : found->second.get();
}

}  // namespace kexec_sim
