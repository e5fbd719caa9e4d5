#include "arch/return_frame.h"

#include <string.h>

#define RED_ZONE 128u /* psABI x86-64 3.2.2: below the stack pointer, a leaf function's own */

/* struct user_regs_struct of <sys/user.h>. */
enum user_word {
	USER_R15,
	USER_R14,
	USER_R13,
	USER_R12,
	USER_RBP,
	USER_RBX,
	USER_R11,
	USER_R10,
	USER_R9,
	USER_R8,
	USER_RAX,
	USER_RCX,
	USER_RDX,
	USER_RSI,
	USER_RDI,
	USER_ORIG_RAX,
	USER_RIP,
	USER_CS,
	USER_EFLAGS,
	USER_RSP,
	USER_SS,
};

/* struct sigcontext_64 of <asm/sigcontext.h>, as words. */
enum { CONTEXT_EFLAGS = 17, CONTEXT_SEGMENTS = 18, CONTEXT_FPSTATE = 23, CONTEXT_WORDS = 32 };

static const uint8_t context_order[] = {
	USER_R8,  USER_R9,  USER_R10, USER_R11, USER_R12, USER_R13, USER_R14, USER_R15, USER_RDI,
	USER_RSI, USER_RBP, USER_RBX, USER_RDX, USER_RAX, USER_RCX, USER_RSP, USER_RIP,
};

/* struct rt_sigframe of <asm/sigframe.h>, what the kernel reads of it. */
struct frame {
	uint64_t restorer;
	uint64_t flags, link; /* struct ucontext */
	struct {
		uint64_t pointer;
		int32_t flags, unused;
		uint64_t size;
	} stack;
	uint64_t context[CONTEXT_WORDS];
	uint64_t mask;
	uint8_t info[128]; /* siginfo_t */
};
_Static_assert(sizeof(struct frame) == 440, "x86-64's struct rt_sigframe");

#define FLAG_XSTATE	1u /* <asm/ucontext.h>: UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS */
#define FLAG_SS		2u
#define FLAG_STRICT_SS	4u
#define NO_STACK_CHANGE 0x7fffffff /* no valid flags: the alternate stack stays as it is (do_sigaltstack) */
#define CALL_SIZE	2u	   /* of a syscall instruction */
#define RESTART_SYS	512	   /* include/linux/errno.h: ERESTARTSYS, -NOINTR, -NOHAND, _RESTARTBLOCK */
#define RESTART_NO_HAND 514
#define RESTART_BLOCK	516
#define EINTR_RESULT	((uint64_t)-4)

/* An XSAVE area in the standard format (Intel SDM 1, 13.4), and what the kernel writes into its software
   bytes
   (<asm/sigcontext.h>, struct _fpx_sw_bytes). */
enum { SOFTWARE = 464, HEADER = 512, EXTENDED = 576 };
#define MAGIC1	0x46505853u
#define MAGIC2	0x46505845u
#define DYNAMIC (UINT64_C(3) << 17) /* AMX's tiles: only threads that asked for them have room */

/* Bytes of each feature behind the header, by Intel SDM 1, 13.5 on: the standard offsets that all processors
 * have. */
static const struct {
	uint8_t bit;
	uint16_t end;
} features[] = {{2, 832}, {3, 1024}, {4, 1088}, {5, 1152}, {6, 1664}, {7, 2688}, {9, 2696}};

static size_t extended_end(uint64_t present)
{
	size_t end = EXTENDED;

	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++)
		if (present >> features[i].bit & 1 && features[i].end > end)
			end = features[i].end;
	return end;
}

static bool put_extended(uint8_t *place, const struct tm_return_state *state, size_t *size)
{
	uint64_t enabled, present;
	struct {
		uint32_t magic, whole;
		uint64_t features;
		uint32_t size, unused[7];
	} software = {MAGIC1, 0, 0, 0, {0}};
	const uint32_t magic = MAGIC2;

	if (state->extended_size < EXTENDED)
		return false;
	memcpy(&enabled, state->extended + SOFTWARE, sizeof(enabled)); /* XCR0 (<asm/user.h>) */
	memcpy(&present, state->extended + HEADER, sizeof(present));
	enabled &= ~DYNAMIC;
	present &= enabled;
	*size = extended_end(enabled);
	if (*size > state->extended_size)
		return false;
	memcpy(place, state->extended, *size);
	memcpy(place + HEADER, &present, sizeof(present));
	software.whole = (uint32_t)(*size + sizeof(magic));
	software.features = enabled;
	software.size = (uint32_t)*size;
	memcpy(place + SOFTWARE, &software, sizeof(software));
	memcpy(place + *size, &magic, sizeof(magic));
	*size += sizeof(magic);
	return true;
}

/* As arch_do_signal_or_restart does for a call that a stop has interrupted. */
static void put_registers(struct frame *frame, const uint64_t *regset)
{
	uint64_t regs[USER_SS + 1];
	int64_t result;

	memcpy(regs, regset, sizeof(regs));
	result = -(int64_t)regs[USER_RAX];
	if ((int64_t)regs[USER_ORIG_RAX] >= 0 && result >= RESTART_SYS && result <= RESTART_NO_HAND) {
		regs[USER_RAX] = regs[USER_ORIG_RAX];
		regs[USER_RIP] -= CALL_SIZE;
	} else if ((int64_t)regs[USER_ORIG_RAX] >= 0 && result == RESTART_BLOCK) {
		regs[USER_RAX] = EINTR_RESULT;
	}
	for (size_t i = 0; i < sizeof(context_order); i++)
		frame->context[i] = regs[context_order[i]];
	frame->context[CONTEXT_EFLAGS] = regs[USER_EFLAGS];
	frame->context[CONTEXT_SEGMENTS] = (regs[USER_CS] & 0xffff) | (regs[USER_SS] & 0xffff) << 48;
}

bool tm_return_frame_make(const struct tm_arch *arch, const struct tm_return_state *state,
			  struct tm_return_frame *out)
{
	struct frame frame = {.restorer = state->restorer,
			      .flags = FLAG_XSTATE | FLAG_SS | FLAG_STRICT_SS,
			      .stack = {.flags = NO_STACK_CHANGE},
			      .mask = state->signal_mask};
	size_t extended_at = (sizeof(frame) + 63) & ~(size_t)63, extended_size;

	if (arch != &tm_arch_x86_64 || extended_at + state->extended_size + 64 > sizeof(out->bytes))
		return false;
	memset(out->bytes, 0, extended_at);
	if (!put_extended(out->bytes + extended_at, state, &extended_size))
		return false;
	out->size = extended_at + extended_size;
	out->address = ((state->stack ? state->stack : state->regset[USER_RSP] - RED_ZONE) - out->size) &
		       ~UINT64_C(63);
	put_registers(&frame, state->regset);
	frame.context[CONTEXT_FPSTATE] = out->address + extended_at;
	memcpy(out->bytes, &frame, sizeof(frame));
	return true;
}

#define FLAGS_OF_CODE 0x202u /* interrupts on; DF clear, as functions want it, and no trap flag */

bool tm_return_frame_enter(const struct tm_arch *arch, uint64_t *regset, uint64_t function, uint64_t argument,
			   uint64_t sp)
{
	if (arch != &tm_arch_x86_64)
		return false;
	regset[USER_RIP] = function;
	regset[USER_RDI] = argument;
	regset[USER_RSP] = sp;
	regset[USER_EFLAGS] = FLAGS_OF_CODE;
	regset[USER_ORIG_RAX] = UINT64_MAX; /* in no system call, which would be begun again */
	return true;
}

const struct tm_code_bytes *tm_call_and_return_code(const struct tm_arch *arch)
{
	static const struct tm_code_bytes code[] = {{{0x0f, 0x05, 0xc3}, 3}, {{0}, 0}}; /* syscall; ret */

	return arch == &tm_arch_x86_64 ? code : code + 1;
}

const struct tm_code_bytes *tm_restorer_code(const struct tm_arch *arch)
{
	static const struct tm_code_bytes code[] = {
		{{0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05}, 9}, /* mov $15,%rax; syscall: glibc */
		{{0xb8, 15, 0, 0, 0, 0x0f, 0x05}, 7},		  /* mov $15,%eax; syscall */
		{{0}, 0},
	};

	return arch == &tm_arch_x86_64 ? code : code + 2;
}
