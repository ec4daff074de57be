// /dev/liveupdate: the orchestrator's ioctls, byte by byte (luo/abi/ioctl.hpp).
//
//   luo-v3   open -> EBUSY if anybody has it open; the last close unpreserves every outgoing file, whatever the state
//   luo-v2   open -> any number of openers; close means nothing
//
// A luo-v3 call: 1. number out of the table: EINVAL. 2. The first word, the size, cannot be read: EFAULT. 3. The
// number is not exactly the table's: ENOTTY. 4. Size below the smallest: EINVAL. 5. Above the known one with a byte
// that is not zero: E2BIG. 6. The struct cannot be read: EFAULT. 7. The operation. A luo-v2 call: type or number
// unknown: ENOTTY; argument: EFAULT; the operation.
//
// This is the boundary at which the referee is told what user space asked for and what it was told.
#pragma once

#include "kernel-model/vfs.hpp"
#include "luo/edition.hpp"

namespace kexec_sim::luo {

class Orchestrator;

inline constexpr const char* device_path = "/dev/liveupdate";
/// open(2)'s O_EXCL.
inline constexpr u32 O_EXCL_BIT = 0x80;

class DeviceFile final : public File {
public:
    DeviceFile(u64 id, Orchestrator& orchestrator, std::shared_ptr<bool> in_use)
        : File(id),
          orchestrator_(orchestrator),
          in_use_(std::move(in_use)) {}
    std::string_view kind() const override { return "liveupdate"; }
    void release() override;
    Result<i64> ioctl(Agent& caller, u32 request, UserBuffer& argument) override;

private:
    Result<i64> ioctl_v3(Agent& caller, u32 request, UserBuffer& argument);
    Result<i64> ioctl_v2(Agent& caller, u32 request, UserBuffer& argument);
    template <typename Body> Result<i64> traced(std::string_view name, Body&& body);

    Orchestrator& orchestrator_;
    std::shared_ptr<bool> in_use_;  // of all openers
};

/// Makes the device node.
void register_device(Orchestrator& orchestrator);

}  // namespace kexec_sim::luo
