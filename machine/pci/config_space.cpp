#include "machine/pci/config_space.hpp"

#include "machine/result.hpp"

namespace kexec_sim {
namespace {

void check_access(u16 offset, unsigned bytes) {
    INVARIANT(bytes == 1 || bytes == 2 || bytes == 4);
    INVARIANT(offset % bytes == 0);
    INVARIANT(offset + bytes <= ConfigSpace::bytes_max);
}

}  // namespace

u32 ConfigSpace::read(u16 offset, unsigned bytes) const {
    check_access(offset, bytes);
    u32 value = 0;
    std::memcpy(&value, &value_[offset], bytes);
    return value;
}

u32 ConfigSpace::write(u16 offset, unsigned bytes, u32 value) {
    check_access(offset, bytes);
    for (unsigned i = 0; i < bytes; ++i) {
        const u8 written = static_cast<u8>(value >> (8 * i));
        const u8 mask = writable_[offset + i];
        u8& byte = value_[offset + i];
        byte = static_cast<u8>(((byte & ~mask) | (written & mask)) & ~(written & write_1_to_clear_[offset + i]));
    }
    return read(offset, bytes);
}

void ConfigSpace::set(u16 offset, unsigned bytes, u32 value) {
    check_access(offset, bytes);
    std::memcpy(&value_[offset], &value, bytes);
}

void ConfigSpace::declare(u16 offset, unsigned bytes, u32 value, u32 writable, u32 write_1_to_clear) {
    check_access(offset, bytes);
    std::memcpy(&value_[offset], &value, bytes);
    std::memcpy(&reset_value_[offset], &value, bytes);
    std::memcpy(&writable_[offset], &writable, bytes);
    std::memcpy(&write_1_to_clear_[offset], &write_1_to_clear, bytes);
}

void ConfigSpace::reset() { value_ = reset_value_; }

}  // namespace kexec_sim
