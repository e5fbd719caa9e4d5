/* Moving x86-64 instructions, bytes to bytes, and finding the exits of small functions. */
#include <criterion/criterion.h>

#include "arch/x86_64_insn.h"
#include "arch/x86_64_layout.h"
#include "support/relocation_rows.h"

#define NEAR 0x20000u
#define FAR  0x700000000000u

/* clang-format off */
static const struct tm_move_row moves[] = {
	{"plain", NEAR, 1,
	 "48 89 e5",       /* mov rbp, rsp */
	 "48 89 e5 "       /* mov rbp, rsp */
	 "e9 fb ff fe ff", /* jmp 0x10003 */
	 3, "0=10000 3=10003"},
	{"plain, far", FAR, 1,
	 "55",                      /* push rbp */
	 "55 "                      /* push rbp */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "01 00 01 00 00 00 00 00", /* .quad 0x10001 */
	 1, "0=10000 1=10001"},
	{"three pushes", NEAR, 5,
	 "41 57 "          /* push r15 */
	 "41 56 "          /* push r14 */
	 "41 55",          /* push r13 */
	 "41 57 "          /* push r15 */
	 "41 56 "          /* push r14 */
	 "41 55 "          /* push r13 */
	 "e9 fb ff fe ff", /* jmp 0x10006 */
	 6, "0=10000 2=10002 4=10004 6=10006"},
	{"endbr64", NEAR, 1,
	 "f3 0f 1e fa",    /* endbr64 */
	 "f3 0f 1e fa "    /* endbr64 */
	 "e9 fb ff fe ff", /* jmp 0x10004 */
	 4, "0=10000 4=10004"},
	{"a nop is moved as code", NEAR, 1,
	 "0f 1f 40 00",    /* nop dword ptr [rax] */
	 "0f 1f 40 00 "    /* nop dword ptr [rax] */
	 "e9 fb ff fe ff", /* jmp 0x10004 */
	 4, "0=10000 4=10004"},
	{"rip-relative, with an immediate", NEAR, 1,
	 "80 3d 01 02 03 04 05", /* cmp byte ptr [rip + 0x4030201], 5 */
	 "80 3d 01 02 02 04 05 " /* cmp byte ptr [rip + 0x4020201], 5 */
	 "e9 fb ff fe ff",       /* jmp 0x10007 */
	 7, "0=10000 7=10007"},
	{"rip-relative, to where the pad's own copy would be", NEAR, 1,
	 "f3 0f 10 05 f9 ff 00 00", /* movss xmm0, dword ptr [rip + 0xfff9] */
	 "f3 0f 10 05 f9 ff ff ff " /* movss xmm0, dword ptr [rip - 7] */
	 "e9 fb ff fe ff",          /* jmp 0x10008 */
	 8, "0=10000 8=10008"},
	{"rip-relative, VEX", NEAR, 1,
	 "c4 e3 71 0f 05 01 02 03 04 05", /* vpalignr xmm0, xmm1, xmmword ptr [rip + 0x4030201], 5 */
	 "c4 e3 71 0f 05 01 02 02 04 05 " /* vpalignr xmm0, xmm1, xmmword ptr [rip + 0x4020201], 5 */
	 "e9 fb ff fe ff",                /* jmp 0x1000a */
	 10, "0=10000 10=1000a"},
	{"rip-relative, EVEX the disassembler does not know", NEAR, 1,
	 "62 f3 ed 48 25 05 01 02 03 04 ff", /* vpternlogq zmm0, zmm2, [rip + 0x4030201], 0xff */
	 "62 f3 ed 48 25 05 01 02 02 04 ff " /* vpternlogq zmm0, zmm2, [rip + 0x4020201], 0xff */
	 "e9 fb ff fe ff",                   /* jmp 0x1000b */
	 11, "0=10000 11=1000b"},
	{"lea, far", FAR, 1,
	 "48 8d 3d 01 02 03 04",          /* lea rdi, [rip + 0x4030201] */
	 "48 bf 08 02 04 04 00 00 00 00 " /* movabs rdi, 0x4040208 */
	 "ff 25 00 00 00 00 "             /* jmp qword ptr [rip] */
	 "07 00 01 00 00 00 00 00",       /* .quad 0x10007 */
	 7, "0=10000 10=10007"},
	{"lea of 32 bits, far", FAR, 1,
	 "44 8d 3d 01 02 03 04",          /* lea r15d, [rip + 0x4030201] */
	 "49 bf 08 02 04 04 00 00 00 00 " /* movabs r15, 0x4040208 */
	 "ff 25 00 00 00 00 "             /* jmp qword ptr [rip] */
	 "07 00 01 00 00 00 00 00",       /* .quad 0x10007 */
	 7, "0=10000 10=10007"},
	{"load, far", FAR, 1,
	 "48 8b 05 01 02 03 04",          /* mov rax, qword ptr [rip + 0x4030201] */
	 "48 b8 08 02 04 04 00 00 00 00 " /* movabs rax, 0x4040208 */
	 "48 8b 00 "                      /* mov rax, qword ptr [rax] */
	 "ff 25 00 00 00 00 "             /* jmp qword ptr [rip] */
	 "07 00 01 00 00 00 00 00",       /* .quad 0x10007 */
	 7, "0=10000 10=10000 13=10007"},
	{"load into r12, far", FAR, 1,
	 "4c 8b 25 01 02 03 04",          /* mov r12, qword ptr [rip + 0x4030201] */
	 "49 bc 08 02 04 04 00 00 00 00 " /* movabs r12, 0x4040208 */
	 "4d 8b 24 24 "                   /* mov r12, qword ptr [r12] */
	 "ff 25 00 00 00 00 "             /* jmp qword ptr [rip] */
	 "07 00 01 00 00 00 00 00",       /* .quad 0x10007 */
	 7, "0=10000 10=10000 14=10007"},
	{"load into r13d, far", FAR, 1,
	 "44 8b 2d 01 02 03 04",          /* mov r13d, dword ptr [rip + 0x4030201] */
	 "49 bd 08 02 04 04 00 00 00 00 " /* movabs r13, 0x4040208 */
	 "45 8b 6d 00 "                   /* mov r13d, dword ptr [r13] */
	 "ff 25 00 00 00 00 "             /* jmp qword ptr [rip] */
	 "07 00 01 00 00 00 00 00",       /* .quad 0x10007 */
	 7, "0=10000 10=10000 14=10007"},
	{"short branch", NEAR, 1,
	 "74 10",             /* je 0x10012 */
	 "0f 84 0c 00 ff ff " /* je 0x10012 */
	 "e9 f7 ff fe ff",    /* jmp 0x10002 */
	 2, "0=10000 6=10002"},
	{"short branch, far", FAR, 1,
	 "74 10",                   /* je 0x10012 */
	 "0f 84 0e 00 00 00 "       /* je 0x700000000014 */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "02 00 01 00 00 00 00 00 " /* .quad 0x10002 */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "12 00 01 00 00 00 00 00", /* .quad 0x10012 */
	 2, "0=10000 6=10002 20=10012"},
	{"near branch, far", FAR, 1,
	 "0f 85 10 00 00 00",       /* jne 0x10016 */
	 "0f 85 0e 00 00 00 "       /* jne 0x700000000014 */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "06 00 01 00 00 00 00 00 " /* .quad 0x10006 */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "16 00 01 00 00 00 00 00", /* .quad 0x10016 */
	 6, "0=10000 6=10006 20=10016"},
	{"branch with a hint", NEAR, 1,
	 "2e 74 10",          /* je 0x10013 */
	 "0f 84 0d 00 ff ff " /* je 0x10013 */
	 "e9 f8 ff fe ff",    /* jmp 0x10003 */
	 3, "0=10000 6=10003"},
	{"jrcxz", NEAR, 1,
	 "e3 10",          /* jrcxz 0x10012 */
	 "e3 05 "          /* jrcxz 0x20007 */
	 "e9 fb ff fe ff " /* jmp 0x10002 */
	 "e9 06 00 ff ff", /* jmp 0x10012 */
	 2, "0=10000 2=10002 7=10012"},
	{"jecxz, far", FAR, 1,
	 "67 e3 10",                /* jecxz 0x10013 */
	 "67 e3 0e "                /* jecxz 0x700000000011 */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "03 00 01 00 00 00 00 00 " /* .quad 0x10003 */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "13 00 01 00 00 00 00 00", /* .quad 0x10013 */
	 3, "0=10000 3=10003 17=10013"},
	{"loop to itself", NEAR, 1,
	 "e2 fe",          /* loop 0x10000 */
	 "e2 05 "          /* loop 0x20007 */
	 "e9 fb ff fe ff " /* jmp 0x10002 */
	 "e9 f4 ff fe ff", /* jmp 0x10000 */
	 2, "0=10000 2=10002 7=10000"},
	{"three branches, far", FAR, 5,
	 "74 10 "                   /* je 0x10012 */
	 "74 20 "                   /* je 0x10024 */
	 "74 30",                   /* je 0x10036 */
	 "0f 84 1a 00 00 00 "       /* je 0x700000000020 */
	 "0f 84 22 00 00 00 "       /* je 0x70000000002e */
	 "0f 84 2a 00 00 00 "       /* je 0x70000000003c */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "06 00 01 00 00 00 00 00 " /* .quad 0x10006 */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "12 00 01 00 00 00 00 00 " /* .quad 0x10012 */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "24 00 01 00 00 00 00 00 " /* .quad 0x10024 */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "36 00 01 00 00 00 00 00", /* .quad 0x10036 */
	 6, "0=10000 6=10002 12=10004 18=10006 32=10012 46=10024 60=10036"},
	{"jump", NEAR, 1,
	 "eb 10",          /* jmp 0x10012 */
	 "e9 0d 00 ff ff", /* jmp 0x10012 */
	 2, "0=10000"},
	{"jump, far", FAR, 1,
	 "e9 10 00 00 00",          /* jmp 0x10015 */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "15 00 01 00 00 00 00 00", /* .quad 0x10015 */
	 5, "0=10000"},
	{"jump and padding", NEAR, 5,
	 "eb 10 "          /* jmp 0x10012 */
	 "0f 1f 00",       /* nop dword ptr [rax] */
	 "e9 0d 00 ff ff", /* jmp 0x10012 */
	 5, "0=10000"},
	{"jump and traps as padding", NEAR, 5,
	 "eb 10 "          /* jmp 0x10012 */
	 "cc "             /* int3 */
	 "cc "             /* int3 */
	 "cc",             /* int3 */
	 "e9 0d 00 ff ff", /* jmp 0x10012 */
	 5, "0=10000"},
	{"jump and long padding", NEAR, 5,
	 "eb 10 "                         /* jmp 0x10012 */
	 "66 2e 0f 1f 84 00 00 00 00 00", /* nop word ptr cs:[rax + rax] */
	 "e9 0d 00 ff ff",                /* jmp 0x10012 */
	 12, "0=10000"},
	{"jump through memory", NEAR, 1,
	 "ff 25 10 00 00 00", /* jmp qword ptr [rip + 0x10] */
	 "ff 25 10 00 ff ff", /* jmp qword ptr [rip - 0xfff0] */
	 6, "0=10000"},
	{"jump of a switch table", NEAR, 1,
	 "3e ff e0", /* jmp rax */
	 "3e ff e0", /* jmp rax */
	 3, "0=10000"},
	{"call", NEAR, 1,
	 "e8 10 00 00 00",          /* call 0x10015 */
	 "ff 35 05 00 00 00 "       /* push qword ptr [rip + 5] */
	 "e9 0a 00 ff ff "          /* jmp 0x10015 */
	 "05 00 01 00 00 00 00 00", /* .quad 0x10005 */
	 5, "0=10000 6=10015"},
	{"call, far", FAR, 1,
	 "e8 10 00 00 00",          /* call 0x10015 */
	 "ff 35 0e 00 00 00 "       /* push qword ptr [rip + 0xe] */
	 "ff 25 00 00 00 00 "       /* jmp qword ptr [rip] */
	 "15 00 01 00 00 00 00 00 " /* .quad 0x10015 */
	 "05 00 01 00 00 00 00 00", /* .quad 0x10005 */
	 5, "0=10000 6=10015"},
	{"call of __tls_get_addr", NEAR, 1,
	 "66 66 48 e8 10 00 00 00", /* call 0x10018 */
	 "ff 35 05 00 00 00 "       /* push qword ptr [rip + 5] */
	 "e9 0d 00 ff ff "          /* jmp 0x10018 */
	 "08 00 01 00 00 00 00 00", /* .quad 0x10008 */
	 8, "0=10000 6=10018"},
	{"call at the end of a patch", NEAR, 5,
	 "51 "                      /* push rcx */
	 "51 "                      /* push rcx */
	 "51 "                      /* push rcx */
	 "51 "                      /* push rcx */
	 "e8 10 00 00 00",          /* call 0x10019 */
	 "51 "                      /* push rcx */
	 "51 "                      /* push rcx */
	 "51 "                      /* push rcx */
	 "51 "                      /* push rcx */
	 "ff 35 05 00 00 00 "       /* push qword ptr [rip + 5] */
	 "e9 0a 00 ff ff "          /* jmp 0x10019 */
	 "09 00 01 00 00 00 00 00", /* .quad 0x10009 */
	 9, "0=10000 1=10001 2=10002 3=10003 4=10004 10=10019"},
	{"call of itself", NEAR, 1,
	 "e8 fb ff ff ff",          /* call 0x10000 */
	 "ff 35 05 00 00 00 "       /* push qword ptr [rip + 5] */
	 "e9 f5 ff fe ff "          /* jmp 0x10000 */
	 "05 00 01 00 00 00 00 00", /* .quad 0x10005 */
	 5, "0=10000 6=10000"},
	{"call of a register", NEAR, 1,
	 "ff d0",                   /* call rax */
	 "ff 35 02 00 00 00 "       /* push qword ptr [rip + 2] */
	 "ff e0 "                   /* jmp rax */
	 "02 00 01 00 00 00 00 00", /* .quad 0x10002 */
	 2, "0=10000 6=0"},
	{"call of a high register", NEAR, 1,
	 "41 ff d4",                /* call r12 */
	 "ff 35 03 00 00 00 "       /* push qword ptr [rip + 3] */
	 "41 ff e4 "                /* jmp r12 */
	 "03 00 01 00 00 00 00 00", /* .quad 0x10003 */
	 3, "0=10000 6=0"},
	{"call through rip-relative memory", NEAR, 1,
	 "ff 15 10 00 00 00",       /* call qword ptr [rip + 0x10] */
	 "ff 35 06 00 00 00 "       /* push qword ptr [rip + 6] */
	 "ff 25 0a 00 ff ff "       /* jmp qword ptr [rip - 0xfff6] */
	 "06 00 01 00 00 00 00 00", /* .quad 0x10006 */
	 6, "0=10000 6=0"},
	{"call through r12", NEAR, 1,
	 "41 ff 14 24",             /* call qword ptr [r12] */
	 "ff 35 04 00 00 00 "       /* push qword ptr [rip + 4] */
	 "41 ff 24 24 "             /* jmp qword ptr [r12] */
	 "04 00 01 00 00 00 00 00", /* .quad 0x10004 */
	 4, "0=10000 6=0"},
	{"call through the stack", NEAR, 1,
	 "ff 14 24",                /* call qword ptr [rsp] */
	 "ff 35 07 00 00 00 "       /* push qword ptr [rip + 7] */
	 "ff a4 24 08 00 00 00 "    /* jmp qword ptr [rsp + 8] */
	 "03 00 01 00 00 00 00 00", /* .quad 0x10003 */
	 3, "0=10000 6=0"},
	{"call through the stack, disp8", NEAR, 1,
	 "ff 54 24 08",             /* call qword ptr [rsp + 8] */
	 "ff 35 07 00 00 00 "       /* push qword ptr [rip + 7] */
	 "ff a4 24 10 00 00 00 "    /* jmp qword ptr [rsp + 0x10] */
	 "04 00 01 00 00 00 00 00", /* .quad 0x10004 */
	 4, "0=10000 6=0"},
	{"call through the stack, index and disp32", NEAR, 1,
	 "42 ff 94 a4 80 00 00 00", /* call qword ptr [rsp + r12*4 + 0x80] */
	 "ff 35 08 00 00 00 "       /* push qword ptr [rip + 8] */
	 "42 ff a4 a4 88 00 00 00 " /* jmp qword ptr [rsp + r12*4 + 0x88] */
	 "08 00 01 00 00 00 00 00", /* .quad 0x10008 */
	 8, "0=10000 6=0"},
	{"call through thread memory, far", FAR, 1,
	 "64 ff 14 25 10 00 00 00", /* call qword ptr fs:[0x10] */
	 "ff 35 08 00 00 00 "       /* push qword ptr [rip + 8] */
	 "64 ff 24 25 10 00 00 00 " /* jmp qword ptr fs:[0x10] */
	 "08 00 01 00 00 00 00 00", /* .quad 0x10008 */
	 8, "0=10000 6=0"},
	{"return", NEAR, 1,
	 "c3", /* ret */
	 "c3", /* ret */
	 1, "0=10000"},
	{"return with rep", NEAR, 1,
	 "f3 c3", /* ret */
	 "f3 c3", /* ret */
	 2, "0=10000"},
	{"return that pops", NEAR, 1,
	 "c2 08 00", /* ret 8 */
	 "c2 08 00", /* ret 8 */
	 3, "0=10000"},
	{"return and padding", NEAR, 5,
	 "c3 "    /* ret */
	 "66 90 " /* nop */
	 "90 "    /* nop */
	 "90",    /* nop */
	 "c3",    /* ret */
	 5, "0=10000"},
};
/* clang-format on */

Test(x86_64_insn, moves_are_these_bytes)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(moves); i++) {
		_cleanup_free_ char *difference = tm_move_row_check(&tm_arch_x86_64, &moves[i]);

		cr_expect_null(difference, "%s", difference);
	}
}

static const struct tm_refusal_row refusals[] = {
	{"int3", "cc", NEAR, 1, "a breakpoint stands there already"},
	{"int3 behind a push", "55 cc 55 55 55", NEAR, 5, "a breakpoint stands there already"},
	{"syscall", "0f 05", NEAR, 1, "(rcx, restarts, cancellation, seccomp filters)"},
	{"sysenter", "0f 34", NEAR, 1, "(rcx, restarts, cancellation, seccomp filters)"},
	{"int 0x80", "cd 80", NEAR, 1, "it traps into the kernel, which would see the pad's address"},
	{"ud2", "0f 0b", NEAR, 1, "it is an undefined instruction"},
	{"hlt", "f4", NEAR, 1, "it is privileged"},
	{"in al, dx", "ec", NEAR, 1, "it is privileged"},
	{"cli", "fa", NEAR, 1, "it is privileged"},
	{"wrmsr", "0f 30", NEAR, 1, "it is privileged"},
	{"lgdt", "0f 01 10", NEAR, 1, "it is privileged"},
	{"iretq", "48 cf", NEAR, 1, "it is a far transfer of control"},
	{"retf", "cb", NEAR, 1, "it is a far transfer of control"},
	{"ljmp", "ff 2d 10 00 00 00", NEAR, 1, "it is a far transfer of control"},
	{"xbegin", "c7 f8 01 00 00 00", NEAR, 1, "a transaction's abort would go to the pad"},
	{"incsspq, which capstone 4.0.2 takes for lfence", "f3 48 0f ae e8", NEAR, 1,
	 "which disassemblers mistake for others"},
	{"rdsspq", "f3 48 0f 1e c8", NEAR, 1, "which disassemblers mistake for others"},
	{"saveprevssp", "f3 0f 01 ea", NEAR, 1, "which disassemblers mistake for others"},
	{"umonitor, which capstone 4.0.2 takes for mfence", "f3 0f ae f0", NEAR, 1,
	 "which disassemblers mistake for others"},
	{"call with 16 bits on some CPUs", "66 e8 01 00 00 00", NEAR, 1, "it is unknown or cut off"},
	{"ret of 16 bits", "66 c3", NEAR, 1, "it is unknown or cut off"},
	{"lea rax, [eip + x]", "67 48 8d 05 01 02 03 04", NEAR, 1, "its operand is relative to eip"},
	{"APX", "d5 48 01 d8", NEAR, 1, "it is unknown or cut off"},
	{"XOP", "8f e8 78 c2 c0 0c", NEAR, 1, "it is unknown or cut off"},
	{"push es, not in 64-bit mode", "06", NEAR, 1, "it is unknown or cut off"},
	{"cut off", "48 89", NEAR, 5, "it is unknown or cut off"},
	{"too few bytes", "48 89 e5", NEAR, 5, "no more bytes are at hand"},
	{"cmpb, far", "80 3d 01 02 03 04 05", FAR, 1, "its operand is out of reach (2 GB) of the pad"},
	{"mov rsp, far", "48 8b 25 01 02 03 04", FAR, 1, "its operand is out of reach (2 GB) of the pad"},
	{"call [rip + x], far", "ff 15 10 00 00 00", FAR, 1, "its operand is out of reach (2 GB) of the pad"},
	{"mov ax, far", "66 8b 05 01 02 03 04", FAR, 1, "its operand is out of reach (2 GB) of the pad"},
	{"call [rsp - 8]", "ff 54 24 f8", NEAR, 1, "its operand may stand where the return address goes"},
	{"call [rsp + x] with ten prefixes", "64 64 64 64 64 64 64 64 64 64 ff 54 54 26", NEAR, 1,
	 "it has so many prefixes that it cannot be written with a longer displacement"},
	{"call rsp", "ff d4", NEAR, 1, "it calls to the stack pointer"},
	{"code behind a jump", "eb 10 48 89 e5", NEAR, 5, "the instruction before it never goes on to it"},
	{"a call that returns into the patch", "ff d0 90 90 90", NEAR, 5,
	 "it returns into the bytes that would be overwritten"},
	{"je into the patch", "74 01 90 90 90 90", NEAR, 5,
	 "it jumps into the bytes that would be overwritten"},
	{"loop into the patch", "90 90 e2 fd 90 90", NEAR, 5,
	 "it jumps into the bytes that would be overwritten"},
	{"reads the patch", "8b 05 fa ff ff ff", NEAR, 5, "it refers to the bytes that would be overwritten"},
};

Test(x86_64_insn, refusals_say_why)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(refusals); i++) {
		_cleanup_free_ char *difference = tm_refusal_row_check(&tm_arch_x86_64, &refusals[i]);

		cr_expect_null(difference, "%s", difference);
	}
}

Test(x86_64_insn, a_message_names_the_instruction_and_its_address)
{
	static const uint8_t bytes[] = {0x55, 0xf4};
	struct tm_relocated moved;
	_cleanup_error_ struct tm_error *err =
		tm_arch_x86_64.relocate(bytes, sizeof(bytes), 0x401000, NEAR, 2, &moved);

	cr_assert_not_null(err);
	cr_assert_str_eq(err->message, "cannot move `hlt` at 0x401001: it is privileged");
}

/* Five bytes hold at most two branches of two bytes and one more instruction. */
Test(x86_64_insn, every_five_byte_patch_of_branches_fits_into_a_pad)
{
	static const uint8_t opcodes[] = {0x74, 0xe2, 0xe3};

	for (unsigned i = 0; i < 27; i++) {
		const uint8_t bytes[] = {opcodes[i % 3], 0x10,		 opcodes[i / 3 % 3],
					 0x20,		 opcodes[i / 9], 0x30};
		struct tm_relocated moved;

		cr_assert_null(tm_arch_x86_64.relocate(bytes, sizeof(bytes), TM_ROW_FROM, FAR, 5, &moved));
		cr_assert_leq(moved.size, TM_PAD_CODE_MAX);
		cr_assert_eq(moved.consumed, 6);
	}
}

/* ---- exits ---- */

/* clang-format off */
static const struct {
	const char *what, *body;
	bool only_returns, tail_jumps;
	size_t return_count;
	uint64_t lowest_target; /* all addresses are offsets from the body's first byte */
	uint64_t returns[3];
} exit_rows[] = {
	{"a return", "c3", true, false, 1, 1, {0}},
	{"two returns and a branch between",
	 "48 85 ff " /* test rdi, rdi */
	 "74 01 "    /* je 6 */
	 "c3 "       /* ret */
	 "f3 c3",    /* rep ret */
	 true, false, 2, 6, {5, 6}},
	{"a return that pops, and padding", "c2 08 00 66 90", true, false, 1, 5, {0}},
	{"a tail jump", "55 5d e9 00 01 00 00", false, true, 0, 7, {0}},
	{"a tail jump and a return",
	 "74 01 "          /* je 3 */
	 "c3 "             /* ret */
	 "e9 00 01 00 00", /* jmp out */
	 false, true, 1, 3, {2}},
	{"a branch out", "74 10 c3", false, true, 1, 3, {2}},
	{"a branch to the byte behind", "74 01 c3", false, true, 1, 3, {2}},
	{"an indirect jump", "ff e0 c3", false, true, 1, 3, {2}},
	{"a far return", "cb", false, true, 0, 1, {0}},
	{"a loop to the first instruction", "48 ff cf 75 fb c3", true, false, 1, 6, {5}},
	{"a call that does not return",
	 "74 01 "          /* je 3 */
	 "c3 "             /* ret */
	 "e8 00 01 00 00", /* call abort */
	 true, false, 1, 3, {2}},
	{"a trap at the end", "c3 0f 0b", true, false, 1, 3, {0}},
	{"an end that is run over", "c3 55", false, true, 1, 2, {0}},
	{"recursion", "e8 fb ff ff ff c3", true, false, 1, 6, {5}},
	{"a jump over a lock prefix",
	 "74 01 "       /* je 3 */
	 "f0 0f b1 3e " /* lock cmpxchg [rsi], edi */
	 "c3",          /* ret */
	 true, false, 1, 3, {6}},
	{"a return in an immediate is none", "b8 c3 c3 c3 c3 c3", true, false, 1, 6, {5}},
	/* What is not believed: nothing is reported but that anything may happen. */
	{"an unknown instruction", "c3 06", false, true, 0, 0, {0}},
	{"a cut off instruction", "c3 48 89", false, true, 0, 0, {0}},
	{"a jump into an instruction", "75 01 b8 c3 00 00 00 c3", false, true, 0, 0, {0}},
	{"a call into itself", "e8 01 00 00 00 90 c3", false, true, 0, 0, {0}},
	{"data in the body", "48 8d 05 01 00 00 00 c3 c3 c3", false, true, 0, 0, {0}},
	{"no body", "", false, true, 0, 0, {0}},
};
/* clang-format on */

Test(x86_64_insn, exits_are_found)
{
	const uint64_t address = 0x7f0000401000;

	for (size_t i = 0; i < TM_ARRAY_SIZE(exit_rows); i++) {
		uint8_t bytes[64];
		size_t size = tm_row_bytes(exit_rows[i].body, bytes, sizeof(bytes));
		const char *what = exit_rows[i].what;
		struct tm_exits exits;

		cr_assert_null(tm_arch_x86_64.find_exits(bytes, size, address, &exits));
		cr_expect_eq(exits.only_returns, exit_rows[i].only_returns, "%s: only_returns", what);
		cr_expect_eq(exits.tail_jumps, exit_rows[i].tail_jumps, "%s: tail_jumps", what);
		cr_expect_eq(exits.lowest_target, address + exit_rows[i].lowest_target, "%s: lowest_target",
			     what);
		cr_assert_eq(exits.return_count, exit_rows[i].return_count, "%s: return_count", what);
		for (size_t k = 0; k < exits.return_count; k++)
			cr_expect_eq(exits.returns[k], address + exit_rows[i].returns[k], "%s: returns",
				     what);
		tm_exits_deinit(&exits);
	}
}

/* Each way: its address, start and end; a jump has no start. */
/* clang-format off */
static const struct {
	const char *what, *body;
	size_t count; /* 0: there may be others */
	struct {
		uint64_t address, start, end;
		bool returns;
	} ways[3];
} way_rows[] = {
	{"padding is room", "c3 0f 1f 40 00", 1, {{0, 0, 5, true}}},
	{"padding that is jumped to is none", "75 01 c3 90 c3 90 90 90 90", 2, {{2, 2, 3, true}, {4, 4, 9, true}}},
	{"so are instructions before it", "48 83 c4 08 5b 5d c3", 1, {{6, 0, 7, true}}},
	{"no more of them than it takes", "5b 41 5c 41 5d 41 5e c3", 1, {{7, 3, 8, true}}},
	{"not behind a jump's target", "75 02 31 c0 5b c3 90", 1, {{5, 5, 7, true}}},
	{"but from one on", "75 02 31 c0 48 83 c4 08 c3", 1, {{8, 4, 9, true}}},
	{"not what is relative to its place", "48 8b 05 00 10 00 00 5b c3", 1, {{8, 8, 9, true}}},
	{"nor a call", "e8 00 10 00 00 5b c3", 1, {{6, 6, 7, true}}},
	{"a jump to another function", "75 05 e9 00 10 00 00 c3", 2, {{2, 2, 7, false}, {7, 7, 8, true}}},
	{"a jump through a slot", "ff 25 00 10 00 00", 1, {{0, 0, 6, false}}},
	{"a jump through a register may stay inside", "ff e0", 0, {{0}}},
	{"a branch that leaves", "75 40 c3", 0, {{0}}},
	{"a body that runs on", "c3 5b", 0, {{0}}},
	{"an unknown instruction", "c3 06", 0, {{0}}},
};
/* clang-format on */

Test(x86_64_insn, ways_out_are_found)
{
	const uint64_t address = 0x7f0000401000;

	for (size_t i = 0; i < TM_ARRAY_SIZE(way_rows); i++) {
		uint8_t bytes[64];
		size_t size = tm_row_bytes(way_rows[i].body, bytes, sizeof(bytes));
		const char *what = way_rows[i].what;
		struct tm_exits exits;

		cr_assert_null(tm_arch_x86_64.find_exits(bytes, size, address, &exits));
		cr_expect_eq(!exits.ways, !way_rows[i].count, "%s", what);
		cr_assert_eq(exits.way_count, way_rows[i].count, "%s", what);
		for (size_t k = 0; k < exits.way_count; k++) {
			cr_expect_eq(exits.ways[k].address, address + way_rows[i].ways[k].address, "%s",
				     what);
			cr_expect_eq(exits.ways[k].start, address + way_rows[i].ways[k].start, "%s: start",
				     what);
			cr_expect_eq(exits.ways[k].end, address + way_rows[i].ways[k].end, "%s: end", what);
			cr_expect_eq(exits.ways[k].returns, way_rows[i].ways[k].returns, "%s", what);
		}
		tm_exits_deinit(&exits);
	}
}

/* ---- layout ---- */

static const struct {
	const char *bytes;
	unsigned size, modrm_at, displacement_at, displacement_size, immediate_at, immediate_size;
} layouts[] = {
	{"90", 1, 0, 0, 0, 1, 0},			      /* nop */
	{"48 b8 01 02 03 04 05 06 07 08", 10, 0, 0, 0, 2, 8}, /* movabs rax, imm64 */
	{"66 b8 01 02", 4, 0, 0, 0, 2, 2},		      /* mov ax, imm16 */
	{"48 a1 01 02 03 04 05 06 07 08", 10, 0, 0, 0, 2, 8}, /* movabs rax, [imm64] */
	{"67 a1 01 02 03 04", 6, 0, 0, 0, 2, 4},	      /* mov eax, [imm32] */
	{"c8 01 02 03", 4, 0, 0, 0, 1, 3},		      /* enter */
	{"f6 05 01 02 03 04 05", 7, 1, 2, 4, 6, 1},	      /* test byte [rip + x], imm8 */
	{"f6 1d 01 02 03 04", 6, 1, 2, 4, 6, 0},	      /* neg byte [rip + x] */
	{"f7 04 24 01 02 03 04", 7, 1, 3, 0, 3, 4},	      /* test dword [rsp], imm32 */
	{"66 f7 04 24 01 02", 6, 2, 4, 0, 4, 2},	      /* test word [rsp], imm16 */
	{"48 8b 04 25 01 02 03 04", 8, 2, 4, 4, 8, 0},	      /* mov rax, [imm32] */
	{"48 8b 44 24 08", 5, 2, 4, 1, 5, 0},		      /* mov rax, [rsp + 8] */
	{"c5 f8 77", 3, 0, 0, 0, 3, 0},			      /* vzeroupper */
	{"c4 e3 f9 16 c0 01", 6, 4, 5, 0, 5, 1},	      /* vpextrq rax, xmm0, 1 */
	{"62 f1 fe 48 6f 47 01", 7, 5, 6, 1, 7, 0},	      /* vmovdqu64 zmm0, [rdi + 64] */
	{"66 0f 3a 0f c1 08", 6, 4, 5, 0, 5, 1},	      /* palignr xmm0, xmm1, 8 */
	{"f2 48 0f 38 f1 c1", 6, 5, 6, 0, 6, 0},	      /* crc32 rax, rcx */
};

Test(x86_64_insn, parts_stand_where_the_manual_says)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(layouts); i++) {
		uint8_t bytes[16];
		size_t size = tm_row_bytes(layouts[i].bytes, bytes, sizeof(bytes));
		struct tm_x86_layout layout;

		cr_assert(tm_x86_layout_parse(bytes, size, &layout), "%s", layouts[i].bytes);
		cr_expect_eq(layout.size, layouts[i].size, "%s", layouts[i].bytes);
		cr_expect_eq(layout.modrm_at, layouts[i].modrm_at, "%s", layouts[i].bytes);
		cr_expect_eq(layout.displacement_at, layouts[i].displacement_at, "%s", layouts[i].bytes);
		cr_expect_eq(layout.displacement_size, layouts[i].displacement_size, "%s", layouts[i].bytes);
		cr_expect_eq(layout.immediate_at, layouts[i].immediate_at, "%s", layouts[i].bytes);
		cr_expect_eq(layout.immediate_size, layouts[i].immediate_size, "%s", layouts[i].bytes);
		cr_expect(!tm_x86_layout_parse(bytes, size - 1, &layout) || layout.size < size, "%s",
			  layouts[i].bytes);
	}
}
