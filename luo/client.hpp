// What a user-space program does with /dev/liveupdate: libluo, for one agent.
//
// Every call goes through open(2), ioctl(2), close(2) of the kernel model with an argument in the edition's binary
// form, so nothing reaches the orchestrator that a program could not send.
#pragma once

#include <memory>
#include <span>

#include "kernel-model/kernel.hpp"
#include "luo/edition.hpp"

namespace kexec_sim::luo {

class LuoClient {
public:
    /// The agent must outlive the client.
    LuoClient(Kernel& kernel, Agent& agent) : kernel_(kernel), agent_(agent) {}

    Result<> open();   // ENOENT: no device; EBUSY: somebody has it
    Result<> close();  // EBADF
    /// False before open(), and once the agent closed the device or died.
    bool is_open() const;

    Result<> fd_preserve(i32 fd, u64 token);
    Result<> fd_unpreserve(u64 token);
    Result<i32> fd_restore(u64 token);
    Result<LuoState> get_state();
    /// LuoEvent's numbers. luo-v2 has an ioctl for each; a number without one is ENOTTY.
    Result<> set_event(u32 event);
    Result<LuoState> get_fd_state(u64 token, bool incoming);  // luo-v3 only: ENOTTY
    Result<> set_fd_event(u64 token, u32 event);              // luo-v3 only: ENOTTY
    /// Any ioctl; `argument` is read and written as the kernel does.
    Result<i64> raw(u32 request, std::span<std::byte> argument);

private:
    template <typename Argument> Result<> call(IoctlOp op, Argument& argument);
    const Edition& edition() const;

    Kernel& kernel_;
    Agent& agent_;
    i32 fd_ = -1;
    std::weak_ptr<File> file_;
};

}  // namespace kexec_sim::luo
